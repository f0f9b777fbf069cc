"""What wrapping, deriving and signing mechanisms mean for the guard: tables, and refusal for what has no row.

Sources: PKCS#11 3.0, mechanisms; Clulow, "On the security of PKCS #11" (CHES 2003), for what leaks.
"""

from __future__ import annotations

import enum
from typing import Final, TypeVar

from keyvisor_hsm.cryptoki import CKM


class Wrapping(enum.Enum):
    """How far a mechanism can be trusted with keys. (wraps, unwraps what was wrapped here, unwraps anything)."""

    SOUND = (True, True, True)  # what was tampered with does not come back
    EXACT = (True, True, False)  # no integrity, so only bytes that were seen leaving here
    EXPORT = (True, False, False)  # a chosen IV changes the key that comes back
    LEAKY = (False, False, False)  # tells something of the key, or nothing is known about it
    OPENING = (False, True, True)  # sound, but a repeated IV gives away the difference of two keys

    @property
    def wraps(self) -> bool:
        """Whether keys may leave by it."""
        return self.value[0]

    @property
    def unwraps_known(self) -> bool:
        """Whether a blob that left here may come back by it."""
        return self.value[1]

    @property
    def unwraps_unknown(self) -> bool:
        """Whether a blob of unknown origin may come in by it."""
        return self.value[2]


_Row = TypeVar("_Row")


def _rows(row: _Row, names: str) -> dict[int, _Row]:
    return {CKM[name]: row for name in names.split()}


WRAPPING: Final[dict[int, Wrapping]] = {
    **_rows(
        Wrapping.SOUND,
        "AES_KEY_WRAP AES_KEY_WRAP_PAD RSA_PKCS_OAEP RSA_PKCS_OAEP_TPM_1_1 RSA_AES_KEY_WRAP ECDH_AES_KEY_WRAP"
        " KEY_WRAP_SET_OAEP GOST28147_KEY_WRAP GOSTR3410_KEY_WRAP IBM_ATTRIBUTEBOUND_WRAP",
    ),
    **_rows(Wrapping.EXACT, "RSA_PKCS RSA_PKCS_TPM_1_1"),
    **_rows(
        Wrapping.EXPORT,
        "AES_CBC AES_CBC_PAD DES3_CBC DES3_CBC_PAD CAMELLIA_CBC CAMELLIA_CBC_PAD ARIA_CBC ARIA_CBC_PAD SEED_CBC"
        " SEED_CBC_PAD IDEA_CBC IDEA_CBC_PAD CAST128_CBC CAST128_CBC_PAD BLOWFISH_CBC BLOWFISH_CBC_PAD TWOFISH_CBC"
        " TWOFISH_CBC_PAD",
    ),
    **_rows(Wrapping.OPENING, "AES_GCM AES_CCM"),
    **_rows(
        Wrapping.LEAKY,
        "RSA_X_509 AES_ECB DES_ECB DES3_ECB DES_CBC DES_CBC_PAD CDMF_ECB CDMF_CBC CDMF_CBC_PAD AES_CTR AES_CTS AES_OFB"
        " AES_CFB1 AES_CFB8 AES_CFB64 AES_CFB128 CAMELLIA_ECB CAMELLIA_CTR ARIA_ECB SEED_ECB IDEA_ECB RC2_ECB RC2_CBC"
        " RC2_CBC_PAD RC4 RC5_ECB RC5_CBC RC5_CBC_PAD CAST_ECB CAST_CBC CAST_CBC_PAD CAST3_ECB CAST3_CBC CAST3_CBC_PAD"
        " CAST128_ECB GOST28147 GOST28147_ECB SKIPJACK_WRAP SKIPJACK_PRIVATE_WRAP BATON_WRAP JUNIPER_WRAP KEY_WRAP_LYNKS"
        " KIP_WRAP",
    ),
}


class Deriving(enum.Enum):
    """What a derivation tells of its base key."""

    ONE_WAY = "the result tells nothing of the base key"
    ENCRYPTING = "the result is data, encrypted by the base key"
    REVEALING = "the result can be a part or a relative of the base key"


DERIVING: Final[dict[int, Deriving]] = {
    **_rows(
        Deriving.ONE_WAY,
        "DH_PKCS_DERIVE X9_42_DH_DERIVE X9_42_DH_HYBRID_DERIVE X9_42_MQV_DERIVE ECDH1_DERIVE ECDH1_COFACTOR_DERIVE"
        " ECMQV_DERIVE KEA_KEY_DERIVE GOSTR3410_DERIVE IBM_EC_X25519 IBM_EC_X448 IBM_KYBER MD2_KEY_DERIVATION"
        " MD5_KEY_DERIVATION SHA1_KEY_DERIVATION SHA224_KEY_DERIVATION SHA256_KEY_DERIVATION SHA384_KEY_DERIVATION"
        " SHA512_KEY_DERIVATION SHA512_224_KEY_DERIVATION SHA512_256_KEY_DERIVATION SHA512_T_KEY_DERIVATION"
        " SSL3_MASTER_KEY_DERIVE SSL3_MASTER_KEY_DERIVE_DH SSL3_KEY_AND_MAC_DERIVE TLS_MASTER_KEY_DERIVE"
        " TLS_MASTER_KEY_DERIVE_DH TLS_KEY_AND_MAC_DERIVE TLS_PRF TLS_KDF TLS12_MASTER_KEY_DERIVE"
        " TLS12_MASTER_KEY_DERIVE_DH TLS12_KEY_AND_MAC_DERIVE TLS12_KEY_SAFE_DERIVE TLS12_KDF WTLS_MASTER_KEY_DERIVE"
        " WTLS_MASTER_KEY_DERIVE_DH_ECC WTLS_PRF WTLS_SERVER_KEY_AND_MAC_DERIVE WTLS_CLIENT_KEY_AND_MAC_DERIVE",
    ),
    **_rows(
        Deriving.ENCRYPTING,
        "DES_ECB_ENCRYPT_DATA DES_CBC_ENCRYPT_DATA DES3_ECB_ENCRYPT_DATA DES3_CBC_ENCRYPT_DATA AES_ECB_ENCRYPT_DATA"
        " AES_CBC_ENCRYPT_DATA ARIA_ECB_ENCRYPT_DATA ARIA_CBC_ENCRYPT_DATA SEED_ECB_ENCRYPT_DATA SEED_CBC_ENCRYPT_DATA"
        " CAMELLIA_ECB_ENCRYPT_DATA CAMELLIA_CBC_ENCRYPT_DATA",
    ),
    **_rows(
        Deriving.REVEALING,
        "CONCATENATE_BASE_AND_KEY CONCATENATE_BASE_AND_DATA CONCATENATE_DATA_AND_BASE XOR_BASE_AND_DATA"
        " EXTRACT_KEY_FROM_KEY KIP_DERIVE IBM_BTC_DERIVE",
    ),
}

# A signature by one of these is what the key's own operation makes of chosen data: raw RSA decrypts, a CBC-MAC encrypts.
RAW_SIGNATURES: Final = frozenset(
    type_ for type_ in CKM if type_ is CKM.RSA_X_509 or type_.name.endswith(("_MAC", "_MAC_GENERAL"))
    if type_.name.split("_")[0] not in ("SSL3", "TLS", "TLS10", "TLS12", "KIP")
)  # fmt: skip


def wrapping(type_: int) -> Wrapping:
    """What a mechanism is for keys under another key; LEAKY where it has no row."""
    return WRAPPING.get(type_, Wrapping.LEAKY)


def deriving(type_: int) -> Deriving:
    """What a derivation tells; REVEALING where it has no row."""
    return DERIVING.get(type_, Deriving.REVEALING)
