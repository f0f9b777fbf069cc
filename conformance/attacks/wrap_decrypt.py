"""Wrap and decrypt (Clulow 2003, section 3.1; a1): a key that may wrap and decrypt wraps the victim and decrypts the blob."""

from conformance.attacks.token import CBC, CKA, Token


def attack(token: Token, victim: int) -> bytes:
    """The victim's value."""
    key = token.aes({CKA.WRAP: True, CKA.DECRYPT: True})
    return token.decrypt(CBC, key, token.wrap(CBC, key, victim))
