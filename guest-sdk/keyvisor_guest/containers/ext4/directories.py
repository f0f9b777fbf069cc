"""A directory's blocks: names read, put in and taken out (kernel, ext4 directory entries, linear).

Pure: each function works on one block, or on all of a directory's. The checksum behind the last entry is the library's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from keyvisor_guest.containers.errors import VolumeUnusable
from keyvisor_guest.containers.limits import BLOCK

__all__ = ["directory_entries", "insert", "remove"]

_ENTRY = struct.Struct(
    "<IHBB"
)  # inode, length with what is free behind the name, length of the name, file type
_END: Final = BLOCK - 12  # where the checksum stands, in the form of an entry without an inode


def directory_entries(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Names and inode numbers in a directory's blocks, without `.` and `..`. Raises VolumeUnusable."""
    for start in range(0, len(data), BLOCK):
        block = data[start : start + BLOCK]
        for position, number, _, name_length in _walk(block, 0, len(block)):
            name = block[position + _ENTRY.size : position + _ENTRY.size + name_length]
            if number and name not in (b".", b".."):
                yield name, number


def insert(block: bytearray, name: bytes, number: int, file_type: int, start: int = 0) -> int | None:
    """Puts a name in, in place: where it now stands, or None if there is no room from the entry at `start` on."""
    needed = _length(len(name))
    for position, taken, length, name_length in _walk(block, start, _END):
        used = _length(name_length) if taken else 0
        if length - used < needed:
            continue
        if used:
            struct.pack_into("<H", block, position + 4, used)
        place = position + used
        block[place : place + needed] = _ENTRY.pack(number, length - used, len(name), file_type) + name.ljust(
            needed - _ENTRY.size, b"\0"
        )
        return place
    return None


def remove(block: bytearray, name: bytes) -> None:
    """Takes a name out that is in the block, in place. The first entry of a block stays, without an inode."""
    before = None
    for position, number, length, name_length in _walk(block, 0, _END):
        if number and block[position + _ENTRY.size : position + _ENTRY.size + name_length] == name:
            if before is not None:
                block[position : position + _length(name_length)] = bytes(_length(name_length))
                struct.pack_into("<H", block, before + 4, position + length - before)
            else:
                block[position : position + _length(name_length)] = bytes(_length(name_length))
                _ENTRY.pack_into(block, position, 0, length, 0, 0)
            return
        before = position
    raise VolumeUnusable("a directory of the volume lost a name: build the image again")


def _walk(block: bytes | bytearray, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Position, inode number, length and length of the name of each entry."""
    while position < end:
        if end - position < _ENTRY.size:
            raise _damaged()
        number, length, name_length, _ = _ENTRY.unpack_from(block, position)
        if (
            length < _ENTRY.size
            or length % 4
            or position + length > end
            or name_length > length - _ENTRY.size
        ):
            raise _damaged()
        yield position, number, length, name_length
        position += length


def _length(name_length: int) -> int:
    return _ENTRY.size + (name_length + 3) // 4 * 4


def _damaged() -> VolumeUnusable:
    return VolumeUnusable("a directory of the volume is damaged: verify the image")
