"""Encrypt and unwrap (a2): a key of the attacker's is encrypted, unwrapped as a wrapping key, and wraps the victim."""

from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

from conformance.attacks.token import CKA, KW, OAEP, SIZE, Token


def attack(token: Token, victim: int) -> bytes:
    """The victim's value."""
    mine = b"m" * SIZE
    public, private = token.rsa({CKA.ENCRYPT: True}, {CKA.UNWRAP: True})
    known = token.unwrap(OAEP, private, token.encrypt(OAEP, public, mine), {CKA.WRAP: True})
    return aes_key_unwrap(mine, token.wrap(KW, known, victim))
