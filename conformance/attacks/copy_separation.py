"""Key separation by C_CopyObject (Clulow 2003, section 3.1): a wrapping key's copy decrypts what the key has wrapped."""

from conformance.attacks.token import CBC, CKA, Token


def attack(token: Token, victim: int) -> bytes:
    """The victim's value."""
    key = token.aes({CKA.WRAP: True})
    decrypts = token.copy(key, {CKA.DECRYPT: True})
    return token.decrypt(CBC, decrypts, token.wrap(CBC, key, victim))
