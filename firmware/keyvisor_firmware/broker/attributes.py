"""Attributes on the wire and in native form (pkcs11-rpc.md, 4.1 to 4.3). All numbers big-endian on the wire.

The class of an attribute's type decides how its value travels; everything unknown travels as bytes.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import Final

from keyvisor_firmware.broker.cursor import Cursor
from keyvisor_firmware.broker.errors import ProtocolError
from keyvisor_firmware.broker.limits import Limits
from keyvisor_hsm.cryptoki import CKA
from keyvisor_hsm.cryptoki.native import ULONG, Asked, Attribute, Found

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
_WANTED_LENGTH: Final = 8  # type and room


def value_class(type_: int) -> ValueClass:
    """How the value of an attribute of this type travels."""
    return VALUE_CLASSES.get(type_, ValueClass.BYTES)


def read_attributes(cursor: Cursor, depth: int = 0) -> tuple[Attribute, ...]:
    """Read `aA` into native form. Raises ProtocolError past the limits of count and depth."""
    if depth > cursor.limits.nesting:
        raise ProtocolError(f"templates are nested deeper than {cursor.limits.nesting}")
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
            return struct.pack(f"={len(types := cursor.ulongs(cursor.limits.mechanisms))}Q", *types)
        case ValueClass.ATTRIBUTES:
            return read_attributes(cursor, depth + 1)
        case ValueClass.BYTES:
            return cursor.sized_bytes()


# One attribute that a caller wants: its type and the room for its value. That is a number of bytes; for a nested
# template the attributes that there is room for; None for a nested template that cannot travel to this client.
Wanted = tuple[int, "int | tuple[Wanted, ...] | None"]


def read_query(cursor: Cursor, nesting: bool = True) -> tuple[Wanted, ...]:
    """Read `fA`, which ends a request. `nesting`: whether the client's release may know nested templates (4.2).

    Clients from 0.25.4 on write a list behind a nested template that they have room for; older ones write none, and
    0.25.0 to 0.25.5 announce themselves alike. The length tells: eight bytes for each attribute and not one more is a
    query without lists. Who has room and writes no list cannot read a nested template either.
    """
    count = cursor.attribute_count()
    lists = nesting and cursor.left != _WANTED_LENGTH * count
    return tuple([_read_wanted(cursor, lists, nesting, 0) for _ in range(count)])


def _read_wanted(cursor: Cursor, lists: bool, nesting: bool, depth: int) -> Wanted:
    type_, room = cursor.u32(), cursor.u32()
    if value_class(type_) is not ValueClass.ATTRIBUTES:
        return type_, room
    if not nesting:
        return type_, None
    if room == 0:
        return type_, 0
    if not lists:
        return type_, None
    if depth >= cursor.limits.nesting:
        raise ProtocolError(f"templates are nested deeper than {cursor.limits.nesting}")
    return type_, tuple(
        [_read_wanted(cursor, lists, nesting, depth + 1) for _ in range(cursor.attribute_count())]
    )


def within_limits(wanted: Sequence[Wanted], limits: Limits) -> tuple[Asked, ...]:
    """The rooms cut to what one attribute, and all together, may take."""
    left = limits.output

    def cut(one: Wanted) -> Asked:
        nonlocal left
        type_, room = one
        if isinstance(room, tuple):
            return type_, tuple([cut(inner) for inner in room])
        given = min(room or 0, limits.attribute_output, left)
        left -= given
        return type_, given

    return tuple([cut(one) for one in wanted])


def pack_answers(answers: Sequence[Found]) -> bytes:
    """`aA` of a reply. The length in the head is the exact length of the value (4.3, the trap of p11-kit #679)."""
    return _U32.pack(len(answers)) + b"".join(_pack_answer(answer) for answer in answers)


def _pack_answer(answer: Found) -> bytes:
    if answer.length is None:
        return _INVALID.pack(answer.type, 0)
    head = _HEAD.pack(answer.type, 1, answer.length)
    kind = value_class(answer.type)
    if answer.value is None:
        return head + _PLACEHOLDERS[kind]
    if isinstance(answer.value, tuple):
        return head + pack_answers(answer.value)
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
