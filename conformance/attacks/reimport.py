"""Re-import with other attributes (a4): the victim is wrapped and comes back as a key that is not sensitive."""

from conformance.attacks.token import CKA, KW, Token


def attack(token: Token, victim: int) -> bytes:
    """The victim's value."""
    key = token.aes({CKA.WRAP: True, CKA.UNWRAP: True})
    blob = token.wrap(KW, key, victim)
    return token.read(token.unwrap(KW, key, blob, {CKA.SENSITIVE: False, CKA.EXTRACTABLE: True}))
