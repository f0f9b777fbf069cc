"""Wrap and sign raw (a1, asymmetric): an RSA signature without padding is a decryption, and opens what the public half closed."""

from conformance.attacks.token import CKA, CKM, PKCS1, Mechanism, Token


def attack(token: Token, victim: int) -> bytes:
    """The victim's value, behind the padding."""
    public, private = token.rsa({CKA.WRAP: True}, {CKA.SIGN: True, CKA.UNWRAP: True, CKA.DECRYPT: False})
    padded = token.sign(Mechanism(CKM.RSA_X_509, None), private, token.wrap(PKCS1, public, victim))
    return padded[padded.index(b"\0", 2) + 1 :]
