"""Attributes between the wire and native form, class by class (pkcs11-rpc, 4.1 to 4.3)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.broker.attributes import (
    VALUE_CLASSES,
    ValueClass,
    pack_answers,
    read_attributes,
    read_query,
    value_class,
)
from keyvisor_firmware.broker.cursor import Cursor
from keyvisor_firmware.broker.errors import ProtocolError
from keyvisor_firmware.broker.limits import DEFAULTS
from keyvisor_hsm.cryptoki import CKA
from keyvisor_hsm.cryptoki.native import Attribute, Found

from .encoder import _MECHANISMS, _NUMBER, _ONE_BYTE, _TEMPLATES, NULL, Value, attributes, sized, u32

# One type of each class.
ONE_BYTE, NUMBER, DATE, LIST, TEMPLATE, BYTES = (
    CKA.SENSITIVE,
    CKA.KEY_TYPE,
    CKA.START_DATE,
    CKA.ALLOWED_MECHANISMS,
    CKA.WRAP_TEMPLATE,
    CKA.LABEL,
)


def read(template: bytes) -> tuple[Attribute, ...]:
    cursor = Cursor(template)
    found = read_attributes(cursor)
    cursor.end()
    return found


def test_the_classes_are_the_protocols() -> None:
    by_class = {kind: {type_ for type_, of in VALUE_CLASSES.items() if of is kind} for kind in ValueClass}
    assert by_class == {
        ValueClass.BYTE: _ONE_BYTE,
        ValueClass.ULONG: _NUMBER,
        ValueClass.DATE: {CKA.START_DATE, CKA.END_DATE},
        ValueClass.MECHANISMS: _MECHANISMS,
        ValueClass.ATTRIBUTES: _TEMPLATES,
        ValueClass.BYTES: set(),
    }


@pytest.mark.parametrize("type_", [CKA.VALUE, CKA.DESTROYABLE, CKA.VENDOR_DEFINED, 0xFFFFFFFF, 0x7777])
def test_everything_else_travels_as_bytes(type_: int) -> None:
    assert value_class(type_) is ValueClass.BYTES


@pytest.mark.parametrize(
    ("type_", "value", "native"),
    [
        (ONE_BYTE, True, b"\1"),
        (ONE_BYTE, False, b"\0"),
        (NUMBER, 0x1F, struct.pack("=Q", 0x1F)),
        (NUMBER, 2**64 - 1, b"\xff" * 8),
        (DATE, b"20261123", b"20261123"),
        (DATE, b"", b""),
        (LIST, (0x1081, 0x1082), struct.pack("=QQ", 0x1081, 0x1082)),
        (LIST, (), b""),
        (TEMPLATE, [(ONE_BYTE, True), (BYTES, b"x")], (Attribute(ONE_BYTE, b"\1"), Attribute(BYTES, b"x"))),
        (TEMPLATE, [], ()),
        (BYTES, b"label", b"label"),
        (BYTES, b"", b""),
        (BYTES, None, None),
        (NUMBER, None, None),
    ],
)
def test_each_class_is_read_into_native_form(
    type_: int, value: Value, native: bytes | tuple[Attribute, ...] | None
) -> None:
    assert read(attributes([(type_, value)])) == (Attribute(type_, native),)


@pytest.mark.parametrize("type_", [BYTES, DATE])
def test_a_value_that_is_a_null_pointer(type_: int) -> None:
    assert read(u32(1) + u32(type_) + b"\1" + u32(0) + u32(NULL)) == (Attribute(type_, None),)


@given(st.lists(st.tuples(st.integers(0x10000, 2**32 - 1), st.binary(max_size=40)), max_size=10))
def test_order_and_values_are_kept(template: list[tuple[int, bytes]]) -> None:
    template = [(type_, value) for type_, value in template if value_class(type_) is ValueClass.BYTES]
    assert read(attributes(template)) == tuple(Attribute(*one) for one in template)


def test_the_length_in_the_head_is_not_believed() -> None:
    lying = u32(1) + u32(BYTES) + b"\1" + u32(0x7FFFFFFF) + sized(b"four")
    assert read(lying) == (Attribute(BYTES, b"four"),)


@pytest.mark.parametrize("length", [1, 7, 9, 16])
def test_a_date_has_eight_bytes_or_none(length: int) -> None:
    with pytest.raises(ProtocolError, match=f"a date has {length} bytes"):
        read(attributes([(DATE, bytes(length))]))


# --- bounds


def nested(depth: int) -> list[tuple[int, Value]]:
    return [(BYTES, b"x")] if depth == 0 else [(TEMPLATE, nested(depth - 1))]


def test_templates_nest_to_a_bound() -> None:
    found = read(attributes(nested(DEFAULTS.nesting)))
    for _ in range(DEFAULTS.nesting):
        inner = found[0].value
        assert isinstance(inner, tuple)
        found = inner
    assert found == (Attribute(BYTES, b"x"),)
    with pytest.raises(ProtocolError, match=f"deeper than {DEFAULTS.nesting}"):
        read(attributes(nested(DEFAULTS.nesting + 1)))


def test_a_bottomless_template_is_refused_at_the_bound_and_not_by_the_stack() -> None:
    with pytest.raises(ProtocolError, match="deeper than"):
        read((u32(1) + u32(TEMPLATE) + b"\1" + u32(24)) * 100_000)


def test_attributes_are_bounded() -> None:
    assert len(read(attributes([(BYTES, None)] * DEFAULTS.attributes))) == DEFAULTS.attributes
    with pytest.raises(ProtocolError, match=f"more than {DEFAULTS.attributes} attributes"):
        read(attributes([(BYTES, None)] * (DEFAULTS.attributes + 1)))
    with pytest.raises(ProtocolError, match="more than"):
        read(u32(0xFFFFFFFF))


def test_attributes_of_nested_templates_count_against_the_same_bound() -> None:
    """Else 26 MB of templates in templates keep a gate busy for 11 s and fill 450 MB."""
    wide: list[tuple[int, Value]] = [(TEMPLATE, [(BYTES, None)] * 60)] * 9
    with pytest.raises(ProtocolError, match="more than"):
        read(attributes(wide))


def test_a_list_of_mechanisms_is_bounded() -> None:
    most = tuple(range(DEFAULTS.mechanisms))
    assert read(attributes([(LIST, most)]))[0].value == struct.pack(f"={DEFAULTS.mechanisms}Q", *most)
    with pytest.raises(ProtocolError, match="numbers"):
        read(attributes([(LIST, (*most, 0))]))


# --- queries


def test_a_query_is_types_and_rooms() -> None:
    assert read_query(Cursor(u32(2) + u32(3) + u32(10) + u32(0x11) + u32(0))) == ((3, 10), (0x11, 0))


def test_a_query_is_bounded() -> None:
    with pytest.raises(ProtocolError, match="more than"):
        read_query(Cursor(u32(DEFAULTS.attributes + 1) + bytes(8 * (DEFAULTS.attributes + 1))))


# --- answers


def packed(type_: int, length: int | None, value: bytes | None) -> bytes:
    """One answer without the count before it."""
    found = pack_answers([Found(type_, length, value)])
    assert found[:4] == u32(1)
    return found[4:]


def head(type_: int, length: int) -> bytes:
    return struct.pack(">IBI", type_, 1, length)


@pytest.mark.parametrize(
    ("type_", "native", "wire"),
    [
        (ONE_BYTE, b"\1", b"\1"),
        (NUMBER, struct.pack("=Q", 0x1F), bytes(7) + b"\x1f"),
        (DATE, b"20261123", u32(8) + b"20261123"),
        (DATE, b"", u32(0)),
        (LIST, struct.pack("=QQ", 1, 2), u32(2) + bytes(7) + b"\1" + bytes(7) + b"\2"),
        (BYTES, b"label", u32(5) + b"label"),
        (BYTES, b"", u32(0)),
        (CKA.DESTROYABLE, b"\1", u32(1) + b"\1"),
    ],
)
def test_each_class_is_answered_with_its_exact_length(type_: int, native: bytes, wire: bytes) -> None:
    """The trap of p11-kit #679: newer clients take the length in the head for the value's."""
    assert packed(type_, len(native), native) == head(type_, len(native)) + wire


@pytest.mark.parametrize(
    ("type_", "placeholder"),
    [
        (ONE_BYTE, b"\0"),
        (NUMBER, bytes(8)),
        (DATE, u32(NULL)),
        (LIST, u32(0)),
        (TEMPLATE, u32(0)),
        (BYTES, u32(NULL)),
    ],
)
def test_without_room_the_length_is_told_and_a_placeholder_stands_for_the_value(
    type_: int, placeholder: bytes
) -> None:
    assert packed(type_, 24, None) == head(type_, 24) + placeholder


@pytest.mark.parametrize("type_", [ONE_BYTE, NUMBER, DATE, LIST, TEMPLATE, BYTES])
def test_what_the_module_does_not_tell_is_marked(type_: int) -> None:
    assert packed(type_, None, None) == u32(type_) + b"\0"


@pytest.mark.parametrize(
    ("type_", "odd", "placeholder"),
    [(ONE_BYTE, b"", b"\0"), (ONE_BYTE, b"ab", b"\0"), (NUMBER, b"1234", bytes(8)), (LIST, bytes(9), u32(0))],
)
def test_a_value_that_is_not_of_its_class_does_not_break_the_reply(
    type_: int, odd: bytes, placeholder: bytes
) -> None:
    assert packed(type_, len(odd), odd) == head(type_, len(odd)) + placeholder
