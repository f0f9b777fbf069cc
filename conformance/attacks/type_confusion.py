"""Type confusion on unwrap (a5): an AES key comes back as a generic secret, whose value other mechanisms give out."""

from conformance.attacks.token import CKA, CKK_GENERIC_SECRET, KW, Token


def attack(token: Token, victim: int) -> bytes:
    """The victim's value."""
    key = token.aes({CKA.WRAP: True, CKA.UNWRAP: True})
    blob = token.wrap(KW, key, victim)
    asked = {CKA.KEY_TYPE: CKK_GENERIC_SECRET, CKA.SENSITIVE: False, CKA.EXTRACTABLE: True}
    return token.read(token.unwrap(KW, key, blob, asked))
