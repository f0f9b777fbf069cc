"""Names in a directory's block, against a dictionary."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import VolumeUnusable
from keyvisor_guest.containers.ext4.directories import directory_entries, insert, remove

TAIL = struct.pack("<IHBB4s", 0, 12, 0, 0xDE, b"csum")
EMPTY = struct.pack("<IHBB", 0, 4084, 0, 0) + bytes(4076) + TAIL
FIRST = struct.pack("<IHBB4sIHBB4s", 2, 12, 1, 2, b".", 2, 4072, 2, 2, b"..") + bytes(4060) + TAIL
some_names = st.binary(min_size=1, max_size=255).filter(lambda name: name not in (b".", b".."))


def insert_all(names: list[bytes], start: bytes = EMPTY) -> tuple[bytearray, int]:
    block, place = bytearray(start), 0
    for number, name in enumerate(names, 1):
        found = insert(block, name, number, 1, place)
        if found is None:
            return block, number - 1
        place = found
    return block, len(names)


@pytest.mark.parametrize("start", [EMPTY, FIRST])
@given(steps=st.lists(st.tuples(some_names, st.booleans()), max_size=40))
@settings(max_examples=200, deadline=None)
def test_as_a_dictionary_says(start: bytes, steps: list[tuple[bytes, bool]]) -> None:
    block, model = bytearray(start), dict[bytes, int]()
    for number, (name, wanted) in enumerate(steps, 1):
        if name in model and not wanted:
            remove(block, name)
            del model[name]
        elif name not in model and insert(block, name, number, 1) is not None:
            model[name] = number
        assert dict(directory_entries(bytes(block))) == model
        assert (len(block), bytes(block[-12:])) == (4096, TAIL)


@pytest.mark.parametrize(("length", "fit"), [(1, 340), (4, 340), (5, 255), (255, 15)])
def test_a_block_is_used_to_its_end(length: int, fit: int) -> None:
    names = [b"%d" % number if length < 4 else b"%0*d" % (length, number) for number in range(1000)]
    block, count = insert_all(names if length >= 4 else [name for name in names if len(name) <= 4])
    assert count == fit
    assert len(dict(directory_entries(bytes(block)))) == fit


def test_a_removed_name_leaves_no_trace() -> None:
    block, _ = insert_all([b"first", b"secret-name", b"last"])
    remove(block, b"secret-name")
    remove(block, b"first")
    assert b"secret" not in block
    assert b"first" not in block
    assert dict(directory_entries(bytes(block))) == {b"last": 3}


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(VolumeUnusable, match="lost a name"):
        remove(bytearray(EMPTY), b"x")


@pytest.mark.parametrize("length", [0, 4, 10, 4088, 65535])
def test_a_damaged_length(length: int) -> None:
    block = bytearray(EMPTY)
    struct.pack_into("<H", block, 4, length)
    with pytest.raises(VolumeUnusable, match="damaged"):
        insert(block, b"x", 1, 1)
