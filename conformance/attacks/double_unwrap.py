"""Double unwrap (a3): one blob is unwrapped twice, as a key that wraps and as one that decrypts."""

from conformance.attacks.token import CBC, CKA, KW, Token


def attack(token: Token, victim: int) -> bytes:
    """The victim's value."""
    outer = token.aes({CKA.WRAP: True, CKA.UNWRAP: True})
    inner = token.aes({CKA.EXTRACTABLE: True, CKA.WRAP: True, CKA.UNWRAP: True})
    blob = token.wrap(KW, outer, inner)
    wraps = token.unwrap(KW, outer, blob, {CKA.WRAP: True})
    decrypts = token.unwrap(KW, outer, blob, {CKA.DECRYPT: True})
    return token.decrypt(CBC, decrypts, token.wrap(CBC, wraps, victim))
