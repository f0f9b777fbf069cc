"""Mechanisms on the wire and in native form (pkcs11-rpc.md, section 7).

Parameters that are C structures are rebuilt here from their parts; bytes of a client are never taken for a
structure, since its pointers would be the client's. A type without a row here may only travel without parameter.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Final

from keyvisor_firmware.broker.cursor import Cursor
from keyvisor_firmware.broker.errors import Failed
from keyvisor_hsm.cryptoki import CKM, CKR
from keyvisor_hsm.cryptoki.native import Mechanism, Pointer

Parameter = bytes | Sequence[int | bytes | Pointer] | None
_NULL: Final = 0xFFFFFFFF


class Encoding(enum.Enum):
    """How a client writes mechanisms. Its release decides, which its first byte tells; not the negotiated version."""

    UP_TO_0_25_5 = "the length ffffffff stands for no parameter"
    FROM_0_25_6 = "a byte tells whether a parameter follows"

    @classmethod
    def of(cls, first_byte: int) -> Encoding:
        """The encoding of a client that began with this byte."""
        return cls.FROM_0_25_6 if first_byte >= 2 else cls.UP_TO_0_25_5


def _pss(cursor: Cursor) -> Parameter:
    return [cursor.u64(), cursor.u64(), cursor.u64()]


def _sized(cursor: Cursor) -> tuple[Pointer, int]:
    data = cursor.sized_bytes() or b""
    return Pointer(data), len(data)


def _oaep(cursor: Cursor) -> Parameter:
    hash_, mgf, source = cursor.u64(), cursor.u64(), cursor.u64()
    data, length = _sized(cursor)
    return [hash_, mgf, source, data, length]


def _ecdh1(cursor: Cursor) -> Parameter:
    kdf = cursor.u64()
    shared, shared_length = _sized(cursor)
    public, public_length = _sized(cursor)
    return [kdf, shared_length, shared, public_length, public]


def _ctr(cursor: Cursor) -> Parameter:
    bits = cursor.u64()
    return [bits, _flat(16)(cursor)]


def _gcm(cursor: Cursor) -> Parameter:
    iv, iv_length = _sized(cursor)
    iv_bits = cursor.u64()
    aad, aad_length = _sized(cursor)
    tag_bits = cursor.u64()
    if not iv_length:
        raise Failed(CKR.MECHANISM_PARAM_INVALID, "AES-GCM has no IV")
    return [iv, iv_length, iv_bits, aad, aad_length, tag_bits]


def _number(cursor: Cursor) -> Parameter:
    return [cursor.u64()]


def _flat(length: int) -> Callable[[Cursor], bytes]:
    def read(cursor: Cursor) -> bytes:
        data = cursor.sized_bytes()
        if data is None or len(data) != length:
            raise Failed(CKR.MECHANISM_PARAM_INVALID, f"the mechanism's parameter has {length} bytes")
        return data

    return read


def _public_value(cursor: Cursor) -> Parameter:
    data = cursor.sized_bytes()
    if not data:
        raise Failed(CKR.MECHANISM_PARAM_INVALID, "the other side's public value is empty")
    return data


def _rows(names: str, reader: Callable[[Cursor], Parameter]) -> dict[int, Callable[[Cursor], Parameter]]:
    return {CKM[name]: reader for name in names.split()}


# Section 7.1: how a parameter travels, by type of mechanism.
PARAMETERS: Final[dict[int, Callable[[Cursor], Parameter]]] = {
    **_rows(
        "RSA_PKCS_PSS SHA1_RSA_PKCS_PSS SHA224_RSA_PKCS_PSS SHA256_RSA_PKCS_PSS SHA384_RSA_PKCS_PSS"
        " SHA512_RSA_PKCS_PSS",
        _pss,
    ),
    **_rows("RSA_PKCS_OAEP", _oaep),
    **_rows("ECDH1_DERIVE", _ecdh1),
    **_rows("AES_CBC AES_CBC_PAD AES_OFB AES_CFB1 AES_CFB8 AES_CFB64 AES_CFB128 AES_CTS", _flat(16)),
    **_rows("AES_CTR", _ctr),
    **_rows("AES_GCM", _gcm),
    **_rows("DES_CBC DES_CBC_PAD DES3_CBC DES3_CBC_PAD DES_CFB8 DES_CFB64 DES_OFB64", _flat(8)),
    **_rows(
        "SHA_1_HMAC_GENERAL SHA224_HMAC_GENERAL SHA256_HMAC_GENERAL SHA384_HMAC_GENERAL SHA512_HMAC_GENERAL"
        " SHA512_224_HMAC_GENERAL SHA512_256_HMAC_GENERAL AES_MAC_GENERAL AES_CMAC_GENERAL DES3_MAC_GENERAL"
        " DES3_CMAC_GENERAL",
        _number,
    ),
    **_rows("DH_PKCS_DERIVE", _public_value),
}


def read_mechanism(cursor: Cursor, encoding: Encoding, behind: int | None = None) -> Mechanism | None:
    """Read `M`. None is a NULL pointer. Raises ProtocolError, or Failed with the CK_RV that the client gets.

    `behind`: in a call that begins an operation, the bytes of its other arguments behind the mechanism. Clients 0.25.0
    to 0.25.2 write a NULL pointer there as 0, the number of a mechanism that begins none, and nothing more.
    """
    type_ = cursor.u32()
    if type_ == _NULL:
        return None
    if type_ == 0 and encoding is Encoding.UP_TO_0_25_5 and cursor.left == behind:
        return None
    reader = PARAMETERS.get(type_)
    if encoding is Encoding.FROM_0_25_6:
        return Mechanism(type_, _read_new(cursor, type_, reader))
    return Mechanism(type_, (reader or _nothing)(cursor))


def _read_new(cursor: Cursor, type_: int, reader: Callable[[Cursor], Parameter] | None) -> Parameter:
    if reader is None:
        if type_ not in WITHOUT_PARAMETER:
            raise Failed(CKR.MECHANISM_INVALID, f"the mechanism {type_:#x} cannot be read from this client")
        return None
    return reader(cursor) if cursor.u8() else None


def _nothing(cursor: Cursor) -> Parameter:
    """The generic form for a type without row: only an absent or an empty parameter is taken."""
    if not cursor.sized_bytes():
        return None
    raise Failed(CKR.MECHANISM_PARAM_INVALID, "the mechanism takes no parameter here")


# Section 7.2, as of 0.25.0: after these types a client from 0.25.6 on writes nothing.
# fmt: off
WITHOUT_PARAMETER: Final[frozenset[int]] = frozenset((
    CKM.RSA_PKCS_KEY_PAIR_GEN, CKM.RSA_X9_31_KEY_PAIR_GEN, CKM.RSA_PKCS, CKM.RSA_9796, CKM.RSA_X_509,
    CKM.RSA_X9_31, CKM.MD2_RSA_PKCS, CKM.MD5_RSA_PKCS, CKM.SHA1_RSA_PKCS, CKM.SHA256_RSA_PKCS,
    CKM.SHA384_RSA_PKCS, CKM.SHA512_RSA_PKCS, CKM.RIPEMD128_RSA_PKCS, CKM.RIPEMD160_RSA_PKCS,
    CKM.SHA1_RSA_X9_31, CKM.DSA_KEY_PAIR_GEN, CKM.DSA_PARAMETER_GEN, CKM.DSA, CKM.DSA_SHA1,
    CKM.FORTEZZA_TIMESTAMP, CKM.EC_KEY_PAIR_GEN, CKM.ECDSA, CKM.ECDSA_SHA1, CKM.DH_PKCS_KEY_PAIR_GEN,
    CKM.DH_PKCS_PARAMETER_GEN, CKM.X9_42_DH_KEY_PAIR_GEN, CKM.X9_42_DH_PARAMETER_GEN, CKM.KEA_KEY_PAIR_GEN,
    CKM.GENERIC_SECRET_KEY_GEN, CKM.RC2_KEY_GEN, CKM.RC4_KEY_GEN, CKM.RC4, CKM.RC5_KEY_GEN,
    CKM.AES_KEY_GEN, CKM.AES_ECB, CKM.AES_MAC, CKM.DES_KEY_GEN, CKM.DES2_KEY_GEN, CKM.DES3_KEY_GEN,
    CKM.CDMF_KEY_GEN, CKM.CAST_KEY_GEN, CKM.CAST3_KEY_GEN, CKM.CAST128_KEY_GEN, CKM.IDEA_KEY_GEN,
    CKM.SSL3_PRE_MASTER_KEY_GEN, CKM.TLS_PRE_MASTER_KEY_GEN, CKM.SKIPJACK_KEY_GEN, CKM.BATON_KEY_GEN,
    CKM.JUNIPER_KEY_GEN, CKM.RC2_ECB, CKM.DES_ECB, CKM.DES3_ECB, CKM.CDMF_ECB, CKM.CAST_ECB, CKM.CAST3_ECB,
    CKM.CAST128_ECB, CKM.RC5_ECB, CKM.IDEA_ECB, CKM.RC2_MAC, CKM.DES_MAC, CKM.DES3_MAC, CKM.CDMF_MAC,
    CKM.CAST_MAC, CKM.CAST3_MAC, CKM.RC5_MAC, CKM.IDEA_MAC, CKM.SSL3_MD5_MAC, CKM.SSL3_SHA1_MAC,
    CKM.SKIPJACK_WRAP, CKM.BATON_WRAP, CKM.JUNIPER_WRAP, CKM.MD2, CKM.MD2_HMAC, CKM.MD5, CKM.MD5_HMAC,
    CKM.SHA_1, CKM.SHA_1_HMAC, CKM.SHA256, CKM.SHA256_HMAC, CKM.SHA384, CKM.SHA384_HMAC, CKM.SHA512,
    CKM.SHA512_HMAC, CKM.FASTHASH, CKM.RIPEMD128, CKM.RIPEMD128_HMAC, CKM.RIPEMD160, CKM.RIPEMD160_HMAC,
    CKM.KEY_WRAP_LYNKS, CKM.SHA224_RSA_PKCS, CKM.ECDSA_SHA224, CKM.ECDSA_SHA256, CKM.ECDSA_SHA384,
    CKM.ECDSA_SHA512, CKM.AES_CMAC, CKM.DES3_CMAC, CKM.SHA1_KEY_DERIVATION, CKM.SHA224, CKM.SHA224_HMAC,
    CKM.SHA224_KEY_DERIVATION, CKM.SHA256_KEY_DERIVATION, CKM.SHA384_KEY_DERIVATION,
    CKM.SHA512_KEY_DERIVATION, CKM.SHA512_T, CKM.SHA512_T_HMAC, CKM.SHA512_T_KEY_DERIVATION,
    CKM.SHA512_224, CKM.SHA512_224_HMAC, CKM.SHA512_224_KEY_DERIVATION, CKM.SHA512_256,
    CKM.SHA512_256_HMAC, CKM.SHA512_256_KEY_DERIVATION,
))
# fmt: on
