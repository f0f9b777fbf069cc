"""Structures as a C compiler lays them out for LP64: read back through ctypes, which computes the offsets itself."""

from __future__ import annotations

import ctypes
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_hsm.cryptoki.native import (
    ULONG,
    UNAVAILABLE,
    Attribute,
    Found,
    Mechanism,
    Memory,
    Pointer,
    Query,
    Template,
    Ulongs,
)


class CkAttribute(ctypes.Structure):
    _fields_: ClassVar = [("type", ctypes.c_ulong), ("value", ctypes.c_void_p), ("length", ctypes.c_ulong)]


class CkMechanism(ctypes.Structure):
    _fields_: ClassVar = [
        ("type", ctypes.c_ulong),
        ("parameter", ctypes.c_void_p),
        ("length", ctypes.c_ulong),
    ]


def attributes_at(address: int, count: int) -> list[CkAttribute]:
    return list((CkAttribute * count).from_address(address))


def test_the_offsets_are_those_of_the_reference() -> None:
    """pkcs11-rpc, 4.5."""
    for structure in (CkAttribute, CkMechanism):
        assert ctypes.sizeof(structure) == 24
        assert [getattr(structure, field[0]).offset for field in structure._fields_] == [0, 8, 16]


# --- memory


def test_memory_is_zeroed_and_holds_what_is_written() -> None:
    memory = Memory(8)
    assert memory.read() == bytes(8)
    memory.write(2, b"abc")
    assert memory.read() == b"\0\0abc\0\0\0"
    assert memory.read(2, 3) == b"abc"


@pytest.mark.parametrize(("offset", "data"), [(-1, b"a"), (8, b"a"), (5, b"abcd"), (0, bytes(9))])
def test_nothing_is_written_outside(offset: int, data: bytes) -> None:
    memory = Memory(8)
    with pytest.raises(ValueError, match="outside"):
        memory.write(offset, data)
    assert memory.read() == bytes(8)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 9), (8, 1), (0, -1), (9, None)])
def test_nothing_is_read_outside(offset: int, length: int | None) -> None:
    with pytest.raises(ValueError, match="outside"):
        Memory(8).read(offset, length)


def test_memory_of_no_size_has_an_address_and_nothing_in_it() -> None:
    memory = Memory(0)
    assert memory.address
    assert memory.read() == b""
    with pytest.raises(ValueError, match="outside"):
        memory.write(0, b"a")


def test_numbers_are_native_ulongs() -> None:
    numbers = Ulongs(3, 7)
    assert numbers[0] == 7
    assert list((ctypes.c_ulong * 3).from_address(numbers.address)) == [7, 0, 0]
    ctypes.c_ulong.from_address(numbers.address + 16).value = 2**64 - 1
    assert numbers.values(3) == (7, 0, 2**64 - 1)
    with pytest.raises(ValueError, match="outside"):
        numbers.values(4)


# --- templates


@given(
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.one_of(st.none(), st.binary(max_size=64))),
        min_size=1,
        max_size=8,
    )
)
def test_a_template_is_an_array_of_attributes(values: list[tuple[int, bytes | None]]) -> None:
    template = Template([Attribute(type_, value) for type_, value in values])
    assert template.count == len(values)
    for got, (type_, value) in zip(attributes_at(template.address, template.count), values, strict=True):
        assert got.type == type_
        if value is None:
            assert (got.value, got.length) == (None, 0)
        else:
            assert got.value  # an empty value is not a NULL pointer
            assert ctypes.string_at(got.value, got.length) == value


def test_an_empty_template_is_a_null_pointer() -> None:
    template = Template([])
    assert (template.address, template.count) == (0, 0)


def test_a_nested_template_is_an_array_of_attributes_with_its_length_in_bytes() -> None:
    inner = (Attribute(0x103, b"\1"), Attribute(0x3, b"inner"))
    template = Template([Attribute(0x40000211, inner), Attribute(0x40000212, ())])
    first, second = attributes_at(template.address, 2)
    assert first.length == 48
    one, two = attributes_at(first.value, 2)
    assert (one.type, ctypes.string_at(one.value, one.length)) == (0x103, b"\1")
    assert (two.type, ctypes.string_at(two.value, two.length)) == (0x3, b"inner")
    assert (second.value, second.length) == (None, 0)


# --- queries


def module_answers(query: Query, index: int, value: bytes | None, length: int | None = None) -> None:
    """Do to a query what a module does."""
    asked = CkAttribute.from_address(query.address + 24 * index)
    if value is not None:
        assert asked.value
        assert asked.length >= len(value)
        ctypes.memmove(asked.value, value, len(value))
    asked.length = len(value) if value is not None else length


def test_a_query_gives_room_where_some_was_asked_for() -> None:
    query = Query([(0x3, 10), (0x11, 0)])
    label, value = attributes_at(query.address, query.count)
    assert (label.type, bool(label.value), label.length) == (0x3, True, 10)
    assert (value.type, value.value, value.length) == (0x11, None, 0)


def test_a_query_tells_what_the_module_left() -> None:
    query = Query([(0x3, 10), (0x11, 0), (0x11, 4), (0x102, 4)])
    module_answers(query, 0, b"name")
    module_answers(query, 1, None, 32)
    module_answers(query, 2, None, UNAVAILABLE)
    module_answers(query, 3, None, 5)  # more than there was room for: its bytes are not believed
    assert [query.answer(index) for index in range(4)] == [(4, b"name"), (32, None), (None, None), (5, None)]


def test_a_query_for_nothing_is_a_null_pointer() -> None:
    assert (Query([]).address, Query([]).count) == (0, 0)


# --- mechanisms


def native(mechanism: Mechanism) -> CkMechanism:
    return CkMechanism.from_address(mechanism.address)


@pytest.mark.parametrize("parameter", [None, b"", []])
def test_a_mechanism_without_parameter_has_a_null_pointer(parameter: bytes | None) -> None:
    mechanism = Mechanism(0x1081, parameter)
    got = native(mechanism)
    assert (got.type, got.parameter, got.length) == (0x1081, None, 0)


def test_a_flat_parameter_is_copied() -> None:
    mechanism = Mechanism(0x1082, bytes(range(16)))
    got = native(mechanism)
    assert ctypes.string_at(got.parameter, got.length) == bytes(range(16))


def test_a_structure_is_laid_out_in_order_and_its_pointers_are_ours() -> None:
    mechanism = Mechanism(0x9, [1, Pointer(b"label"), 5, b"flatflat", Pointer(None), Pointer(b"")])
    got = native(mechanism)
    raw = ctypes.string_at(got.parameter, got.length)
    number, pointer, length, flat, null, empty = (raw[at : at + 8] for at in range(0, 48, 8))
    assert len(raw) == 48
    assert (ULONG.unpack(number)[0], ULONG.unpack(length)[0], flat) == (1, 5, b"flatflat")
    assert ctypes.string_at(ULONG.unpack(pointer)[0], 5) == b"label"
    assert (null, empty) == (bytes(8), bytes(8))


# --- nested queries


def test_a_nested_query_is_an_array_of_attributes_and_is_read_back() -> None:
    query = Query([(0x40000211, ((0x0, 0), (0x3, 5))), (0x3, 4)])
    outer, label = attributes_at(query.address, 2)
    assert (outer.type, outer.length, label.length) == (0x40000211, 48, 4)
    inner = [CkAttribute.from_address(outer.value + 24 * index) for index in range(2)]
    assert [(one.type, bool(one.value), one.length) for one in inner] == [(0x0, False, 0), (0x3, True, 5)]
    inner[0].type, inner[0].length = 0x103, 1  # the module fills types in where it is asked for no value
    ctypes.memmove(inner[1].value, b"inner", 5)
    assert query.answers()[0] == Found(0x40000211, 48, (Found(0x103, 1, None), Found(0x3, 5, b"inner")))


@pytest.mark.parametrize("length", [72, 1 << 40])
def test_a_nested_template_that_is_longer_than_its_room_is_not_read(length: int) -> None:
    query = Query([(0x40000211, ((0x0, 0), (0x3, 5)))])
    CkAttribute.from_address(query.address).length = length
    assert query.answer(0) == (length, None)


def test_a_module_cannot_send_the_reader_elsewhere() -> None:
    """Its pointers are not followed, only ours are."""
    query = Query([(0x40000211, ((0x3, 5),)), (0x3, 4)])
    outer, label = CkAttribute.from_address(query.address), CkAttribute.from_address(query.address + 24)
    outer.value = label.value = 1
    assert query.answers() == (Found(0x40000211, 24, (Found(0x3, 5, bytes(5)),)), Found(0x3, 4, bytes(4)))
