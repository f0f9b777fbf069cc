"""Known wrapping key: a secret key of the attacker's is put in with CKA_WRAP and wraps the victim."""

from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

from conformance.attacks.token import AES, CKA, KW, SIZE, Token


def attack(token: Token, victim: int) -> bytes:
    """The victim's value."""
    mine = b"m" * SIZE
    known = token.create({**AES, CKA.VALUE: mine, CKA.WRAP: True, CKA.ENCRYPT: True})
    return aes_key_unwrap(mine, token.wrap(KW, known, victim))
