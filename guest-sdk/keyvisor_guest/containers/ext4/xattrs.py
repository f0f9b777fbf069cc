"""Extended attributes as ext4 keeps them, in an inode or in a block of their own (kernel, ext4 attributes).

Pure: bytes in, names and values out. Values in inodes of their own are refused: volumes that we make have none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from keyvisor_guest.containers.errors import VolumeUnusable

__all__ = ["attributes_of_block", "attributes_of_inode"]

_MAGIC: Final = 0xEA020000
_BLOCK_HEADER: Final = 32
_ENTRY = struct.Struct("<BBHIII")  # name length, name index, value offset, value inode, value size, hash
_PREFIXES: Final = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
_ACLS: Final = (2, 3)
_USER, _GROUP = 0x02, 0x08  # tags of an ACL whose entries name somebody


def attributes_of_inode(area: bytes) -> Iterator[tuple[bytes, bytes]]:
    """From what follows an inode's fields. Value offsets count from behind the magic."""
    if len(area) >= 4 and area[:4] == struct.pack("<I", _MAGIC):
        yield from _entries(area[4:], 0)


def attributes_of_block(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """From a block of attributes. Value offsets count from its start."""
    if block[:4] != struct.pack("<I", _MAGIC):
        raise _damaged()
    yield from _entries(block, _BLOCK_HEADER)


def _entries(data: bytes, position: int) -> Iterator[tuple[bytes, bytes]]:
    while position + 4 <= len(data) and data[position : position + 4] != bytes(4):
        if position + _ENTRY.size > len(data):
            raise _damaged()
        name_length, index, offset, inode, size, _ = _ENTRY.unpack_from(data, position)
        name = data[position + _ENTRY.size : position + _ENTRY.size + name_length]
        if len(name) != name_length or inode or index not in _PREFIXES or offset + size > len(data):
            raise _damaged()
        value = data[offset : offset + size]
        yield _PREFIXES[index] + name, _acl(value) if index in _ACLS else value
        position += (_ENTRY.size + name_length + 3) // 4 * 4


def _acl(kept: bytes) -> bytes:
    """The kernel's form (version 2, each entry with an id) of ext4's own (version 1, an id only where one is meant)."""
    if kept[:4] != struct.pack("<I", 1):
        raise _damaged()
    parts, position = [struct.pack("<I", 2)], 4
    while position < len(kept):
        if position + 4 > len(kept):
            raise _damaged()
        tag, permissions = struct.unpack_from("<HH", kept, position)
        position += 4
        identity = 0xFFFFFFFF
        if tag in (_USER, _GROUP):
            if position + 4 > len(kept):
                raise _damaged()
            (identity,) = struct.unpack_from("<I", kept, position)
            position += 4
        parts.append(struct.pack("<HHI", tag, permissions, identity))
    return b"".join(parts)


def _damaged() -> VolumeUnusable:
    return VolumeUnusable("the extended attributes of a file in the volume are damaged: verify the image")
