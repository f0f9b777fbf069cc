"""CK_KEY_TYPE: the types of keys (PKCS#11 2.40 and 3.0).

A test compares them with the headers where they are installed.
"""

from __future__ import annotations

import enum


class CKK(enum.IntEnum):
    """Key types."""

    RSA = 0x0
    DSA = 0x1
    DH = 0x2
    ECDSA = 0x3
    EC = 0x3
    X9_42_DH = 0x4
    KEA = 0x5
    GENERIC_SECRET = 0x10
    RC2 = 0x11
    RC4 = 0x12
    DES = 0x13
    DES2 = 0x14
    DES3 = 0x15
    CAST = 0x16
    CAST3 = 0x17
    CAST128 = 0x18
    RC5 = 0x19
    IDEA = 0x1A
    SKIPJACK = 0x1B
    BATON = 0x1C
    JUNIPER = 0x1D
    CDMF = 0x1E
    AES = 0x1F
    BLOWFISH = 0x20
    TWOFISH = 0x21
    SECURID = 0x22
    HOTP = 0x23
    ACTI = 0x24
    CAMELLIA = 0x25
    ARIA = 0x26
    MD5_HMAC = 0x27
    SHA_1_HMAC = 0x28
    RIPEMD128_HMAC = 0x29
    RIPEMD160_HMAC = 0x2A
    SHA256_HMAC = 0x2B
    SHA384_HMAC = 0x2C
    SHA512_HMAC = 0x2D
    SHA224_HMAC = 0x2E
    SEED = 0x2F
    GOSTR3410 = 0x30
    GOSTR3411 = 0x31
    GOST28147 = 0x32
    EC_EDWARDS = 0x40
    VENDOR_DEFINED = 0x80000000
