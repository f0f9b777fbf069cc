"""Key conjuring (Clulow 2003, section 3.4): a blob that nobody wrapped becomes a key.

SoftHSM 2.6.1 unwraps by CKM_RSA_PKCS, the AES key wraps and CKM_RSA_PKCS_OAEP only, so a blob of random bytes does
not pass the padding often enough. The nearest variant that works there: the blob is made outside, from the public key.
"""

import os

from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

from conformance.attacks.token import CKA, KW, PKCS1, SIZE, Token


def attack(token: Token, victim: int) -> bytes:
    """The victim's value."""
    public, private = token.rsa({CKA.WRAP: True}, {CKA.UNWRAP: True})
    modulus, mine = int.from_bytes(token.read(public, CKA.MODULUS), "big"), os.urandom(SIZE)
    size = (modulus.bit_length() + 7) // 8
    padding = bytes(byte or 1 for byte in os.urandom(size - SIZE - 3))
    padded = int.from_bytes(b"\0\2" + padding + b"\0" + mine, "big")
    blob = pow(padded, 0x10001, modulus).to_bytes(size, "big")
    conjured = token.unwrap(PKCS1, private, blob, {CKA.WRAP: True})
    return aes_key_unwrap(mine, token.wrap(KW, conjured, victim))
