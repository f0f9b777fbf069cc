"""A volume read by its bytes alone, wherever they come from: no library, no mount (kernel, ext4 layout).

Every number of the volume is held against the volume before it is used, and every loop has an end: what is read may come
from a stranger, if only his own. Knows no keys: whoever gives the bytes has verified them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from keyvisor_guest.containers.errors import VolumeUnusable
from keyvisor_guest.containers.ext4.directories import directory_entries
from keyvisor_guest.containers.ext4.inodes import (
    EXTENT_MAGIC,
    EXTENTS,
    INODE_SIZE,
    ROOT,
    Inode,
)
from keyvisor_guest.containers.ext4.xattrs import attributes_of_block, attributes_of_inode
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.names import shown

__all__ = ["Extent", "Node", "ReadAt", "VolumeReader"]

ReadAt = Callable[[int, int], bytes]

_MAGIC: Final = 0xEF53
# Features that change how files are found. Ours: file types in directories, extents, 64-bit, flexible groups.
_KNOWN_INCOMPAT: Final = 0x2 | 0x40 | 0x80 | 0x200
_DEEPEST_EXTENTS: Final = 5
_DEEPEST_TREE: Final = 4096
_LONGEST_EXTENT: Final = 32768
_HOPS: Final = 40
_PIECE: Final = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Extent:
    """`count` blocks of a file from its block `first` on, which are the volume's blocks from `start` on."""

    first: int
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Node:
    """A place in the tree: its path from the root, its inode's number and fields. Names with the same number are one file."""

    path: tuple[bytes, ...]
    number: int
    inode: Inode


class VolumeReader:
    """The tree in a volume. `read_at` gives `length` bytes at an offset of the volume.

    Raises VolumeUnusable for a volume that is none of ours or damaged, and FileNotFoundError, NotADirectoryError and
    IsADirectoryError for paths, as the system does.
    """

    def __init__(self, read_at: ReadAt) -> None:
        self._read_at = read_at
        block = read_at(1024, 1024)
        if len(block) != 1024 or struct.unpack_from("<H", block, 56)[0] != _MAGIC:
            raise VolumeUnusable("there is no ext4 volume in it: verify the image")
        (self.inodes, blocks, *_) = struct.unpack_from("<II", block)
        self.blocks: int = blocks | struct.unpack_from("<I", block, 0x150)[0] << 32
        self._inodes_per_group: int = struct.unpack_from("<I", block, 40)[0]
        log_block, inode_size = struct.unpack_from("<I", block, 24)[0], struct.unpack_from("<H", block, 88)[0]
        incompat, descriptor = (
            struct.unpack_from("<I", block, 96)[0],
            struct.unpack_from("<H", block, 0xFE)[0],
        )
        if (
            incompat & ~_KNOWN_INCOMPAT
            or log_block != 2
            or inode_size != INODE_SIZE
            or not self._inodes_per_group
        ):
            raise VolumeUnusable(
                "the ext4 volume has features that keyvisor's volumes do not have: build the image again"
            )
        self._descriptor = descriptor if incompat & 0x80 else 32
        self._tables: dict[int, int] = {}
        if self._descriptor not in (32, 64):
            raise VolumeUnusable("the ext4 volume is damaged: verify the image")

    def find(self, path: tuple[bytes, ...], *, follow: bool = True) -> Node:
        """What `path` leads to; symlinks on the way are followed inside the volume, a last one if `follow`."""
        where: list[Node] = [self._node((), ROOT)]
        todo, hops = list(reversed(path)), 0
        while todo:
            name = todo.pop()
            here = where[-1]
            if name in (b"", b"."):
                continue
            if name == b"..":
                del where[max(1, len(where) - 1) :]
                continue
            if not here.inode.is_directory:
                raise NotADirectoryError(shown(here.path))
            number = dict(self._entries(here)).get(name)
            if number is None:
                raise FileNotFoundError(shown((*here.path, name)))
            found = self._node((*here.path, name), number)
            if found.inode.is_symlink and (todo or follow):
                hops += 1
                if hops > _HOPS:
                    raise VolumeUnusable(
                        f"{shown(path)} leads through more than {_HOPS} symlinks: look at each by itself"
                    )
                target = self.read_link(found)
                todo.extend(reversed(target.split(b"/")))
                if target.startswith(b"/"):
                    del where[1:]
                continue
            where.append(found)
        return where[-1]

    def children(self, node: Node) -> list[Node]:
        """What is in a directory, by name."""
        if not node.inode.is_directory:
            raise NotADirectoryError(shown(node.path))
        return [self._node((*node.path, name), number) for name, number in sorted(self._entries(node))]

    def names(self, node: Node) -> dict[bytes, int]:
        """What is in a directory: names, in order of their bytes, and the numbers of their inodes."""
        if not node.inode.is_directory:
            raise NotADirectoryError(shown(node.path))
        return dict(sorted(self._entries(node)))

    def node(self, number: int, path: tuple[bytes, ...] = ()) -> Node:
        """What has this number, as it was found in a directory; `path` is what errors call it."""
        return self._node(path, number)

    def walk(self, start: Node | None = None) -> Iterator[Node]:
        """The whole tree, or that below `start`: each directory before what is in it, names in order of their bytes."""
        pending = [start or self._node((), ROOT)]
        seen = {pending[0].number}
        while pending:
            node = pending.pop()
            yield node
            if not node.inode.is_directory:
                continue
            below = self.children(node)
            for child in below:
                if child.inode.is_directory and (child.number in seen or len(child.path) > _DEEPEST_TREE):
                    raise VolumeUnusable("a directory of the volume is in itself: verify the image")
            seen.update(child.number for child in below if child.inode.is_directory)
            pending.extend(reversed(below))

    def read(self, node: Node, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file; fewer at its end, zeros where it has holes."""
        if node.inode.is_directory:
            raise IsADirectoryError(shown(node.path))
        return self._content(node, offset, node.inode.size - offset if length is None else length)

    def written(self, node: Node) -> Iterator[tuple[int, bytes]]:
        """A file's bytes piece by piece, each with its offset; what no piece covers are holes, which read as zeros."""
        if node.inode.is_directory:
            raise IsADirectoryError(shown(node.path))
        for extent in self.extents(node):
            offset, end = extent.first * BLOCK, min((extent.first + extent.count) * BLOCK, node.inode.size)
            start = extent.start * BLOCK - offset
            while offset < end:
                piece = self._bytes(start + offset, min(_PIECE, end - offset))
                yield offset, piece
                offset += len(piece)

    def read_link(self, node: Node) -> bytes:
        """The target of a symlink as it stands."""
        if node.inode.size > BLOCK:
            raise VolumeUnusable(f"the symlink {shown(node.path)} of the volume is damaged: verify the image")
        if node.inode.size < len(node.inode.block_map):
            return node.inode.block_map[: node.inode.size]
        return self._content(node, 0, node.inode.size)

    def xattrs(self, node: Node) -> dict[bytes, bytes]:
        """Extended attributes by full name, ACLs in the kernel's form."""
        found = dict(attributes_of_inode(node.inode.in_inode))
        if node.inode.acl_block:
            found |= attributes_of_block(self._block(node.inode.acl_block))
        return found

    def extents(self, node: Node) -> list[Extent]:
        """Where a file has data, in the order of the file; everything else of it is holes."""
        if not node.inode.flags & EXTENTS:
            if node.inode.blocks and not node.inode.is_symlink:
                raise VolumeUnusable(f"{shown(node.path)} has no extents: build the image again")
            return []
        found, position = [], 0
        for extent, written in self._extents(node.inode.block_map, _DEEPEST_EXTENTS):
            if extent.first < position or not extent.count or extent.start + extent.count > self.blocks:
                raise VolumeUnusable(f"{shown(node.path)} of the volume is damaged: verify the image")
            position = extent.first + extent.count
            if written:
                found.append(extent)
        return found

    def _extents(self, data: bytes, deepest: int) -> Iterator[tuple[Extent, bool]]:
        """Each with whether it was ever written; one that was not reads as zeros. No block but the inode's own is empty,
        so that a tree that leads into itself comes back to an earlier place of the file, which the caller refuses."""
        magic, entries, _, depth = struct.unpack_from("<HHHH", data)
        empty = not entries and len(data) == BLOCK
        if magic != EXTENT_MAGIC or depth > deepest or 12 + entries * 12 > len(data) or empty:
            raise VolumeUnusable("a file of the volume is damaged: verify the image")
        for position in range(12, 12 + entries * 12, 12):
            if depth:
                _, low, high = struct.unpack_from("<IIH", data, position)
                yield from self._extents(self._block(low | high << 32), depth - 1)
            else:
                first, count, high, low = struct.unpack_from("<IHHI", data, position)
                written = count <= _LONGEST_EXTENT
                yield Extent(first, low | high << 32, count if written else count - _LONGEST_EXTENT), written

    def _content(self, node: Node, offset: int, length: int) -> bytes:
        end = min(offset + length, node.inode.size)
        if offset < 0 or end <= offset:
            return b""
        parts, position = [], offset
        for extent in self.extents(node):
            first, last = extent.first * BLOCK, (extent.first + extent.count) * BLOCK
            if last <= position:
                continue
            if first >= end:
                break
            if first > position:
                parts.append(bytes(first - position))
                position = first
            stop = min(last, end)
            parts.append(self._bytes(extent.start * BLOCK + position - first, stop - position))
            position = stop
        parts.append(bytes(end - position))
        return b"".join(parts)

    def _entries(self, node: Node) -> list[tuple[bytes, int]]:
        if node.inode.size > node.inode.blocks * 512 or node.inode.size % BLOCK:
            raise VolumeUnusable(
                f"the directory {shown(node.path)} of the volume is damaged: verify the image"
            )
        return list(directory_entries(self._content(node, 0, node.inode.size)))

    def _node(self, path: tuple[bytes, ...], number: int) -> Node:
        if not 0 < number <= self.inodes:
            raise VolumeUnusable(f"{shown(path)} leads out of the volume: verify the image")
        group, index = divmod(number - 1, self._inodes_per_group)
        table = self._tables.get(group)
        if table is None:
            table = self._tables[group] = self._inode_table(group)
        raw = self._bytes(table * BLOCK + index * INODE_SIZE, INODE_SIZE)
        return Node(path, number, Inode.parse(raw))

    def _inode_table(self, group: int) -> int:
        """The block in which a group's inodes begin. Descriptors stand behind the superblock's block (no meta_bg)."""
        descriptor = self._bytes(BLOCK + group * self._descriptor, self._descriptor)
        table: int = struct.unpack_from("<I", descriptor, 8)[0]
        if self._descriptor == 64:
            table |= struct.unpack_from("<I", descriptor, 40)[0] << 32
        return table

    def _block(self, number: int) -> bytes:
        return self._bytes(number * BLOCK, BLOCK)

    def _bytes(self, offset: int, length: int) -> bytes:
        if offset + length > self.blocks * BLOCK:
            raise VolumeUnusable("a place in the volume is behind its end: verify the image")
        data = self._read_at(offset, length)
        if len(data) != length:
            raise VolumeUnusable("the volume is shorter than it says: verify the image")
        return data
