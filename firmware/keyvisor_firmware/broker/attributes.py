"""Attributes on the wire and in native form (pkcs11-rpc.md, 4.1 to 4.3). All numbers big-endian on the wire.

The class of an attribute's type decides how its value travels; everything unknown travels as bytes.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from keyvisor_firmware.broker.cursor import Cursor
from keyvisor_firmware.broker.errors import ProtocolError
from keyvisor_firmware.broker.limits import MAX_NESTING, MAX_ULONGS
from keyvisor_hsm.cryptoki import CKA
from keyvisor_hsm.cryptoki.native import ULONG, Attribute

NULL_LENGTH: Final = 0xFFFFFFFF
_DATE_LENGTH: Final = 8


class ValueClass(enum.Enum):
    """How the value of an attribute travels."""

    BYTE = "one byte"
    ULONG = "u64"
    DATE = "u32 length, YYYYMMDD"
    MECHANISMS = "u32 count, u64 each"
    ATTRIBUTES = "u32 count, attributes"
    BYTES = "u32 length, bytes"


_BYTE = (
    "TOKEN PRIVATE TRUSTED SENSITIVE ENCRYPT DECRYPT WRAP UNWRAP SIGN SIGN_RECOVER VERIFY VERIFY_RECOVER DERIVE"
    " EXTRACTABLE LOCAL NEVER_EXTRACTABLE ALWAYS_SENSITIVE MODIFIABLE COPYABLE SECONDARY_AUTH ALWAYS_AUTHENTICATE"
    " WRAP_WITH_TRUSTED RESET_ON_INIT HAS_RESET COLOR"
)
_ULONG = (
    "CLASS CERTIFICATE_TYPE CERTIFICATE_CATEGORY JAVA_MIDP_SECURITY_DOMAIN KEY_TYPE MODULUS_BITS PRIME_BITS"
    " SUB_PRIME_BITS VALUE_BITS VALUE_LEN KEY_GEN_MECHANISM AUTH_PIN_FLAGS HW_FEATURE_TYPE PIXEL_X PIXEL_Y"
    " RESOLUTION CHAR_ROWS CHAR_COLUMNS BITS_PER_PIXEL MECHANISM_TYPE"
)

VALUE_CLASSES: Final[dict[int, ValueClass]] = {
    **{CKA[name]: ValueClass.BYTE for name in _BYTE.split()},
    **{CKA[name]: ValueClass.ULONG for name in _ULONG.split()},
    CKA.START_DATE: ValueClass.DATE,
    CKA.END_DATE: ValueClass.DATE,
    CKA.ALLOWED_MECHANISMS: ValueClass.MECHANISMS,
    CKA.WRAP_TEMPLATE: ValueClass.ATTRIBUTES,
    CKA.UNWRAP_TEMPLATE: ValueClass.ATTRIBUTES,
    CKA.DERIVE_TEMPLATE: ValueClass.ATTRIBUTES,
}

_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
_HEAD: Final = struct.Struct(">IBI")  # type, valid, length
_INVALID: Final = struct.Struct(">IB")


def value_class(type_: int) -> ValueClass:
    """How the value of an attribute of this type travels."""
    return VALUE_CLASSES.get(type_, ValueClass.BYTES)


def read_attributes(cursor: Cursor, depth: int = 0) -> tuple[Attribute, ...]:
    """Read `aA` into native form. Raises ProtocolError past the limits of count and depth."""
    if depth > MAX_NESTING:
        raise ProtocolError(f"templates are nested deeper than {MAX_NESTING}")
    return tuple([_read_attribute(cursor, depth) for _ in range(cursor.attribute_count())])


def _read_attribute(cursor: Cursor, depth: int) -> Attribute:
    type_, valid = cursor.u32(), cursor.u8()
    if not valid:
        return Attribute(type_, None)
    cursor.u32()  # the native length; the value tells its own
    return Attribute(type_, _read_value(cursor, value_class(type_), depth))


def _read_value(cursor: Cursor, kind: ValueClass, depth: int) -> bytes | tuple[Attribute, ...] | None:
    match kind:
        case ValueClass.BYTE:
            return bytes((cursor.u8(),))
        case ValueClass.ULONG:
            return ULONG.pack(cursor.u64())
        case ValueClass.DATE:
            date = cursor.sized_bytes()
            if date is not None and len(date) not in (0, _DATE_LENGTH):
                raise ProtocolError(f"a date has {len(date)} bytes instead of {_DATE_LENGTH}")
            return date
        case ValueClass.MECHANISMS:
            return struct.pack(f"={len(types := cursor.ulongs(MAX_ULONGS))}Q", *types)
        case ValueClass.ATTRIBUTES:
            return read_attributes(cursor, depth + 1)
        case ValueClass.BYTES:
            return cursor.sized_bytes()


def read_query(cursor: Cursor) -> tuple[tuple[int, int], ...]:
    """Read `fA`: per attribute its type and the caller's room in bytes."""
    return tuple([(cursor.u32(), cursor.u32()) for _ in range(cursor.attribute_count())])


@dataclass(frozen=True, slots=True)
class Answer:
    """One attribute of a reply: `length` None where the module knows none; `value` None where there was no room."""

    type: int
    length: int | None
    value: bytes | None


def pack_answers(answers: Sequence[Answer]) -> bytes:
    """`aA` of a reply. The length in the head is the exact length of the value (4.3, the trap of p11-kit #679)."""
    return _U32.pack(len(answers)) + b"".join(_pack_answer(answer) for answer in answers)


def _pack_answer(answer: Answer) -> bytes:
    if answer.length is None:
        return _INVALID.pack(answer.type, 0)
    head = _HEAD.pack(answer.type, 1, answer.length)
    kind = value_class(answer.type)
    if answer.value is None:
        return head + _PLACEHOLDERS[kind]
    return head + _pack_value(kind, answer.value)


_PLACEHOLDERS: Final = {
    ValueClass.BYTE: b"\0",
    ValueClass.ULONG: _U64.pack(0),
    ValueClass.DATE: _U32.pack(NULL_LENGTH),
    ValueClass.MECHANISMS: _U32.pack(0),
    ValueClass.ATTRIBUTES: _U32.pack(0),
    ValueClass.BYTES: _U32.pack(NULL_LENGTH),
}


def _pack_value(kind: ValueClass, value: bytes) -> bytes:
    """The wire form of a native value. A value of another length than its class has travels as a placeholder."""
    match kind:
        case ValueClass.BYTE if len(value) == 1:
            return value
        case ValueClass.ULONG if len(value) == ULONG.size:
            return _U64.pack(*ULONG.unpack(value))
        case ValueClass.MECHANISMS if len(value) % ULONG.size == 0:
            types = struct.unpack(f"={len(value) // ULONG.size}Q", value)
            return _U32.pack(len(types)) + struct.pack(f">{len(types)}Q", *types)
        case ValueClass.BYTES | ValueClass.DATE:
            return _U32.pack(len(value)) + value
        case _:
            return _PLACEHOLDERS[kind]
