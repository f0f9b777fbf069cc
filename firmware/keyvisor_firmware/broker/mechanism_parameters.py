"""Mechanisms on the wire and in native form (pkcs11-rpc.md, section 7).

Parameters that are C structures are rebuilt here from their parts; bytes of a client are never taken for a
structure, since its pointers would be the client's. A type without a row here may only travel without parameter.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from keyvisor_firmware.broker.cursor import Cursor
from keyvisor_firmware.broker.errors import Failed, ProtocolError
from keyvisor_guest.wire import client_releases
from keyvisor_hsm.cryptoki import CKM, CKR
from keyvisor_hsm.cryptoki.native import Mechanism, Pointer

Parameter = bytes | Sequence[int | bytes | Pointer] | None
_NULL: Final = 0xFFFFFFFF


class Encoding(enum.Enum):
    """How a client writes mechanisms. Its release decides, which its first byte tells; not the negotiated version."""

    UP_TO_0_24 = "as 0.25.0 does, and nested templates are unknown"
    UP_TO_0_25_5 = "the length ffffffff stands for no parameter"
    FROM_0_25_6 = "a byte tells whether a parameter follows"

    @classmethod
    def of(cls, first_byte: int) -> Encoding:
        """The encoding of a client that began with this byte."""
        return (cls.UP_TO_0_24, cls.UP_TO_0_25_5, cls.FROM_0_25_6)[min(first_byte, 2)]


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
    if not public_length:
        raise Failed(CKR.MECHANISM_PARAM_INVALID, "the other side's public value is empty")
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


_AES_IV: Final = "AES_CBC AES_CBC_PAD AES_OFB AES_CFB1 AES_CFB8 AES_CFB64 AES_CFB128 AES_CTS"
_DES_IV: Final = "DES_CBC DES_CBC_PAD DES3_CBC DES3_CBC_PAD DES_CFB8 DES_CFB64 DES_OFB64"

# Section 7.1: how a parameter travels, by type of mechanism.
PARAMETERS: Final[dict[int, Callable[[Cursor], Parameter]]] = {
    **_rows(
        "RSA_PKCS_PSS SHA1_RSA_PKCS_PSS SHA224_RSA_PKCS_PSS SHA256_RSA_PKCS_PSS SHA384_RSA_PKCS_PSS"
        " SHA512_RSA_PKCS_PSS",
        _pss,
    ),
    **_rows("RSA_PKCS_OAEP", _oaep),
    **_rows("ECDH1_DERIVE IBM_EC_X25519 IBM_EC_X448", _ecdh1),
    **_rows(_AES_IV, _flat(16)),
    **_rows("AES_CTR", _ctr),
    **_rows("AES_GCM", _gcm),
    **_rows(_DES_IV, _flat(8)),
    **_rows(
        "SHA_1_HMAC_GENERAL SHA224_HMAC_GENERAL SHA256_HMAC_GENERAL SHA384_HMAC_GENERAL SHA512_HMAC_GENERAL"
        " SHA512_224_HMAC_GENERAL SHA512_256_HMAC_GENERAL AES_MAC_GENERAL AES_CMAC_GENERAL DES3_MAC_GENERAL"
        " DES3_CMAC_GENERAL",
        _number,
    ),
    **_rows("DH_PKCS_DERIVE", _public_value),
}


@dataclass(frozen=True, slots=True)
class Hole:
    """Where the IV is that differs from one operation to the next, though nothing decides by it.

    `offset`: bytes of the written parameter before the IV's length, a u32. `address`: where the module finds the IV.
    """

    offset: int
    address: Callable[[Mechanism], int]


_COUNTER_BITS: Final = 8  # bytes in front of AES-CTR's counter block, on the wire and in the structure
_FLAT_IV: Final = Hole(0, lambda mechanism: mechanism.parameter_address)

HOLES: Final[dict[int, Hole]] = {
    **{CKM[name]: _FLAT_IV for name in f"{_AES_IV} {_DES_IV}".split()},
    CKM.AES_CTR: Hole(_COUNTER_BITS, lambda mechanism: mechanism.parameter_address + _COUNTER_BITS),
    CKM.AES_GCM: Hole(0, lambda mechanism: mechanism.pointed[0]),
}


def read_mechanism(cursor: Cursor, encoding: Encoding, behind: int | None = None) -> Mechanism | None:
    """Read `M`. None is a NULL pointer. Raises ProtocolError, or Failed with the CK_RV that the client gets.

    `behind`: in a call that begins an operation, the bytes of its other arguments behind the mechanism. Clients 0.25.0
    to 0.25.2 write a NULL pointer there as 0, the number of a mechanism that begins none, and nothing more; and of a
    type that no list has, the bytes that are left tell whether a parameter follows.
    """
    type_ = cursor.u32()
    if type_ == _NULL:
        return None
    if type_ == 0 and encoding is not Encoding.FROM_0_25_6 and cursor.left == behind:
        return None
    new = encoding is Encoding.FROM_0_25_6
    if type_ in NOT_READ or (new and behind is None and not _known(type_)):
        raise Failed(CKR.MECHANISM_INVALID, f"the mechanism {type_:#x} cannot be read from this client")
    if not _known(type_):
        _pass_unknown(cursor, type_, new, behind)
        return Mechanism(type_, None)
    if type_ in PARAMETERS:
        return Mechanism(type_, PARAMETERS[type_](cursor) if not new or cursor.u8() else None)
    if not new:
        _pass_nothing(cursor)
    return Mechanism(type_, None)


def _known(type_: int) -> bool:
    return type_ in PARAMETERS or type_ in WITHOUT_PARAMETER


def _pass_unknown(cursor: Cursor, type_: int, new: bool, behind: int | None) -> None:
    """A type that no list has must not cost the connection, whatever a later client writes behind it."""
    try:
        if not new or (cursor.left != behind and cursor.u8()):
            _pass_nothing(cursor)
        if behind in (None, cursor.left):
            return
    except ProtocolError:
        pass
    raise Failed(CKR.MECHANISM_INVALID, f"the mechanism {type_:#x} cannot be read from this client")


def _pass_nothing(cursor: Cursor) -> None:
    """The generic form for a type without row: only an absent or an empty parameter is taken."""
    if cursor.sized_bytes():
        raise Failed(CKR.MECHANISM_PARAM_INVALID, "the mechanism takes no parameter here")


# Parameters that some client writes and the broker does not read: own encodings, three of them with a key's handle.
NOT_READ: Final[frozenset[int]] = frozenset(
    {CKM.IBM_ATTRIBUTEBOUND_WRAP, CKM.IBM_ECDSA_OTHER, CKM.IBM_BTC_DERIVE, CKM.IBM_KYBER}
)

# Section 7.2: after these types a client from 0.25.6 on writes nothing.
WITHOUT_PARAMETER: Final[frozenset[int]] = frozenset(client_releases.names()) - PARAMETERS.keys() - NOT_READ
