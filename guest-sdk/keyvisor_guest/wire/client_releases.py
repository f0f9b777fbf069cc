"""Which releases of `p11-kit-client.so` let which mechanism through (pkcs11-rpc.md, 7.1, 7.2 and 9).

The client holds a list of its own: what is not on it disappears from C_GetMechanismList and is refused before anything
is sent, whatever the HSM can do and the broker would take. Pure data, by CK_MECHANISM_TYPE; knows no broker.
"""

from __future__ import annotations

from typing import Final

# Each stands for the releases from it up to the next: 0.24.0 to 0.24.1, 0.25.0 to 0.25.5, 0.25.6 to 0.26.4. The last two
# carry the same mechanisms and write them differently.
RELEASES: Final[tuple[str, ...]] = ("0.24", "0.25.0", "0.25.6")

# fmt: off
_FROM_0_24: Final[dict[str, int]] = {
    "RSA_PKCS_KEY_PAIR_GEN": 0x0, "RSA_PKCS": 0x1, "RSA_9796": 0x2, "RSA_X_509": 0x3, "MD2_RSA_PKCS": 0x4,
    "MD5_RSA_PKCS": 0x5, "SHA1_RSA_PKCS": 0x6, "RIPEMD128_RSA_PKCS": 0x7, "RIPEMD160_RSA_PKCS": 0x8,
    "RSA_PKCS_OAEP": 0x9, "RSA_X9_31_KEY_PAIR_GEN": 0xA, "RSA_X9_31": 0xB, "SHA1_RSA_X9_31": 0xC,
    "RSA_PKCS_PSS": 0xD, "DSA_KEY_PAIR_GEN": 0x10, "DSA": 0x11, "DSA_SHA1": 0x12,
    "DH_PKCS_KEY_PAIR_GEN": 0x20, "X9_42_DH_KEY_PAIR_GEN": 0x30, "SHA256_RSA_PKCS": 0x40,
    "SHA384_RSA_PKCS": 0x41, "SHA512_RSA_PKCS": 0x42, "RC2_KEY_GEN": 0x100, "RC2_ECB": 0x101,
    "RC2_MAC": 0x103, "RC4_KEY_GEN": 0x110, "RC4": 0x111, "DES_KEY_GEN": 0x120, "DES_ECB": 0x121,
    "DES_MAC": 0x123, "DES2_KEY_GEN": 0x130, "DES3_KEY_GEN": 0x131, "DES3_ECB": 0x132, "DES3_MAC": 0x134,
    "CDMF_KEY_GEN": 0x140, "CDMF_ECB": 0x141, "CDMF_MAC": 0x143, "MD2": 0x200, "MD2_HMAC": 0x201,
    "MD5": 0x210, "MD5_HMAC": 0x211, "SHA_1": 0x220, "SHA_1_HMAC": 0x221, "RIPEMD128": 0x230,
    "RIPEMD128_HMAC": 0x231, "RIPEMD160": 0x240, "RIPEMD160_HMAC": 0x241, "SHA256": 0x250,
    "SHA256_HMAC": 0x251, "SHA384": 0x260, "SHA384_HMAC": 0x261, "SHA512": 0x270, "SHA512_HMAC": 0x271,
    "CAST_KEY_GEN": 0x300, "CAST_ECB": 0x301, "CAST_MAC": 0x303, "CAST3_KEY_GEN": 0x310, "CAST3_ECB": 0x311,
    "CAST3_MAC": 0x313, "CAST5_KEY_GEN": 0x320, "CAST5_ECB": 0x321, "RC5_KEY_GEN": 0x330, "RC5_ECB": 0x331,
    "RC5_MAC": 0x333, "IDEA_KEY_GEN": 0x340, "IDEA_ECB": 0x341, "IDEA_MAC": 0x343,
    "GENERIC_SECRET_KEY_GEN": 0x350, "SSL3_PRE_MASTER_KEY_GEN": 0x370, "TLS_PRE_MASTER_KEY_GEN": 0x374,
    "SSL3_MD5_MAC": 0x380, "SSL3_SHA1_MAC": 0x381, "KEY_WRAP_LYNKS": 0x400, "SKIPJACK_KEY_GEN": 0x1000,
    "SKIPJACK_WRAP": 0x1008, "KEA_KEY_PAIR_GEN": 0x1010, "FORTEZZA_TIMESTAMP": 0x1020,
    "BATON_KEY_GEN": 0x1030, "BATON_WRAP": 0x1036, "ECDSA_KEY_PAIR_GEN": 0x1040, "ECDSA": 0x1041,
    "ECDSA_SHA1": 0x1042, "JUNIPER_KEY_GEN": 0x1060, "JUNIPER_WRAP": 0x1065, "FASTHASH": 0x1070,
    "AES_KEY_GEN": 0x1080, "AES_ECB": 0x1081, "AES_MAC": 0x1083, "DSA_PARAMETER_GEN": 0x2000,
    "DH_PKCS_PARAMETER_GEN": 0x2001, "X9_42_DH_PARAMETER_GEN": 0x2002,
}
_FROM_0_25_0: Final[dict[str, int]] = {
    "SHA1_RSA_PKCS_PSS": 0xE, "DH_PKCS_DERIVE": 0x21, "SHA256_RSA_PKCS_PSS": 0x43,
    "SHA384_RSA_PKCS_PSS": 0x44, "SHA512_RSA_PKCS_PSS": 0x45, "SHA224_RSA_PKCS": 0x46,
    "SHA224_RSA_PKCS_PSS": 0x47, "SHA512_224": 0x48, "SHA512_224_HMAC": 0x49, "SHA512_224_HMAC_GENERAL": 0x4A,
    "SHA512_224_KEY_DERIVATION": 0x4B, "SHA512_256": 0x4C, "SHA512_256_HMAC": 0x4D,
    "SHA512_256_HMAC_GENERAL": 0x4E, "SHA512_256_KEY_DERIVATION": 0x4F, "SHA512_T": 0x50,
    "SHA512_T_HMAC": 0x51, "SHA512_T_KEY_DERIVATION": 0x53, "DES_CBC": 0x122, "DES_CBC_PAD": 0x125,
    "DES3_CBC": 0x133, "DES3_MAC_GENERAL": 0x135, "DES3_CBC_PAD": 0x136, "DES3_CMAC_GENERAL": 0x137,
    "DES3_CMAC": 0x138, "DES_OFB64": 0x150, "DES_CFB64": 0x152, "DES_CFB8": 0x153,
    "SHA_1_HMAC_GENERAL": 0x222, "SHA256_HMAC_GENERAL": 0x252, "SHA224": 0x255, "SHA224_HMAC": 0x256,
    "SHA224_HMAC_GENERAL": 0x257, "SHA384_HMAC_GENERAL": 0x262, "SHA512_HMAC_GENERAL": 0x272,
    "SHA1_KEY_DERIVATION": 0x392, "SHA256_KEY_DERIVATION": 0x393, "SHA384_KEY_DERIVATION": 0x394,
    "SHA512_KEY_DERIVATION": 0x395, "SHA224_KEY_DERIVATION": 0x396, "ECDSA_SHA224": 0x1043,
    "ECDSA_SHA256": 0x1044, "ECDSA_SHA384": 0x1045, "ECDSA_SHA512": 0x1046, "ECDH1_DERIVE": 0x1050,
    "AES_CBC": 0x1082, "AES_MAC_GENERAL": 0x1084, "AES_CBC_PAD": 0x1085, "AES_CTR": 0x1086, "AES_GCM": 0x1087,
    "AES_CTS": 0x1089, "AES_CMAC": 0x108A, "AES_CMAC_GENERAL": 0x108B, "AES_OFB": 0x2104, "AES_CFB64": 0x2105,
    "AES_CFB8": 0x2106, "AES_CFB128": 0x2107, "AES_CFB1": 0x2108, "IBM_SHA3_224": 0x80010001,
    "IBM_SHA3_256": 0x80010002, "IBM_SHA3_384": 0x80010003, "IBM_SHA3_512": 0x80010004,
    "IBM_CMAC": 0x80010007, "IBM_EC_X25519": 0x8001001B, "IBM_ED25519_SHA512": 0x8001001C,
    "IBM_EC_X448": 0x8001001E, "IBM_ED448_SHA3": 0x8001001F, "IBM_DILITHIUM": 0x80010023,
    "IBM_SHA3_224_HMAC": 0x80010025, "IBM_SHA3_256_HMAC": 0x80010026, "IBM_SHA3_384_HMAC": 0x80010027,
    "IBM_SHA3_512_HMAC": 0x80010028, "IBM_ATTRIBUTEBOUND_WRAP": 0x80020004,
}
# fmt: on

_SINCE: Final[dict[int, str]] = {
    **dict.fromkeys(_FROM_0_24.values(), "0.24"),
    **dict.fromkeys(_FROM_0_25_0.values(), "0.25.0"),
}


def since(mechanism: int) -> str | None:
    """The first of RELEASES that carries a mechanism; None: none does."""
    return _SINCE.get(mechanism)


def carried_by(mechanism: int) -> frozenset[str]:
    """Those of RELEASES that carry a mechanism. A release that carries one is followed by none that does not."""
    first = since(mechanism)
    return frozenset() if first is None else frozenset(RELEASES[RELEASES.index(first) :])


def names() -> dict[int, str]:
    """The names, without `CKM_`, of all mechanisms that some release carries."""
    return {number: name for name, number in (_FROM_0_24 | _FROM_0_25_0).items()}
