"""A volume as a layer's entries change it: an ext4 file system in an ordinary file, made without root and without a mount.

Two builds of the same layers give the same bytes (secure-containers, 1.2). Knows no keys, no blocks and no other layers.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import UUID

from keyvisor_guest.containers.errors import ContainerError, ImageRefused
from keyvisor_guest.containers.ext4.inodes import ROOT, new_inode, set_metadata
from keyvisor_guest.containers.ext4.library import Filesystem
from keyvisor_guest.containers.ext4.programs import make
from keyvisor_guest.containers.ext4.tree import Tree
from keyvisor_guest.containers.limits import BLOCK, DEFAULT_LIMITS, Limits
from keyvisor_guest.containers.names import shown
from keyvisor_guest.containers.tar_layers import Entry, Kind

__all__ = ["Volume"]

_ACL_NAMES = (b"system.posix_acl_access", b"system.posix_acl_default")
_ACL_VERSION = struct.pack("<I", 2)
_ZEROS = bytes(BLOCK)
_NODE_TYPES = {
    Kind.FILE: stat.S_IFREG,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
    Kind.FIFO: stat.S_IFIFO,
}


class Volume:
    """The volume in the file at `path`. Between two calls all of its state is in the file."""

    def __init__(self, path: Path, limits: Limits = DEFAULT_LIMITS) -> None:
        self._path = path
        self._limits = limits

    @classmethod
    def create(
        cls, path: Path, uuid: UUID, blocks: int, inodes: int, limits: Limits = DEFAULT_LIMITS
    ) -> Volume:
        """An empty volume of `blocks` blocks of 4096 bytes. Raises VolumeUnusable when mke2fs is missing or refuses."""
        make(path, uuid, blocks, inodes)
        volume = cls(path, limits)
        # A tree of its own has no place for files that were lost: the source has none either.
        with _Writing(path, 1, volume._limits) as writing:
            writing.tree.delete(ROOT, b"lost+found")
            writing.describe(ROOT, Entry(path=(), kind=Kind.DIRECTORY, mode=0o755))
        return volume

    def apply(self, layer: int, entries: Iterable[Entry]) -> None:
        """One layer's entries, in their order, on top of what is there. `layer` counts from 0.

        Raises ImageRefused for an entry that cannot be (the volume stays a sound one that has the entries before it).
        """
        with _Writing(self._path, layer + 1, self._limits) as writing:
            for entry in entries:
                try:
                    writing.apply(entry)
                except ImageRefused as error:
                    raise ImageRefused(
                        f"{shown(entry.path)} of layer {layer}: {error}", error.code
                    ) from error


class _Writing:
    """The volume while one layer is written."""

    def __init__(self, path: Path, now: int, limits: Limits) -> None:
        self._filesystem = Filesystem(path, now)
        self.tree = Tree(self._filesystem, limits.symlink_hops)

    def __enter__(self) -> _Writing:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            self._filesystem.close()
        except ContainerError:
            if kind is None:
                raise

    def apply(self, entry: Entry) -> None:
        """One entry."""
        parent_path, name = entry.path[:-1], entry.path[-1:]
        if entry.kind is Kind.OPAQUE:
            directory = self.tree.directory(entry.path, create=False)
            if directory is not None:
                self.tree.delete_lower(directory)
        elif entry.kind is Kind.WHITEOUT:
            parent = self.tree.directory(parent_path, create=False)
            if parent is not None:
                self.tree.whiteout(parent, name[0])
        elif not name:
            self.describe(ROOT, entry)
        else:
            parent = self.tree.directory(parent_path, create=True)
            assert parent is not None  # noqa: S101 -- made where it was missing
            self._put(parent, name[0], entry)

    def describe(self, number: int, entry: Entry) -> None:
        """Owner, mode, times and extended attributes of an entry for an inode that may have others."""
        _check_acls(entry)
        self.tree.describe(number, entry.mode, entry.uid, entry.gid, entry.mtime, entry.xattrs)

    def _put(self, parent: int, name: bytes, entry: Entry) -> None:
        there = self.tree.find(parent, name)
        if entry.kind is Kind.HARD_LINK:
            self._hard_link(parent, name, there, entry)
        elif entry.kind is Kind.DIRECTORY:
            if there is None or not self.tree.inode(there).is_directory:
                self._clear(parent, name, there)
                there = self.tree.make_directory(parent, name)
            self.tree.mark_written(parent, name)
            self.describe(there, entry)
        else:
            self._clear(parent, name, there)
            if entry.kind is Kind.SYMLINK:
                self.describe(self.tree.make_symlink(parent, name, entry.link), entry)
            else:
                self._make(parent, name, entry)

    def _make(self, parent: int, name: bytes, entry: Entry) -> None:
        _check_acls(entry)
        inode = new_inode(_NODE_TYPES[entry.kind], entry.device)
        set_metadata(inode, entry.mode, entry.uid, entry.gid, entry.mtime)
        number = self.tree.make(parent, name, inode)
        if entry.size:
            self._filesystem.write_file(number, _written_pieces(entry.data), entry.size)
        if entry.xattrs:
            self._filesystem.set_xattrs(number, entry.xattrs)

    def _hard_link(self, parent: int, name: bytes, there: int | None, entry: Entry) -> None:
        directory = self.tree.directory(entry.target[:-1], create=False)
        number = (
            None if directory is None or not entry.target else self.tree.find(directory, entry.target[-1])
        )
        if number is None:
            raise ImageRefused(
                f"a hard link to {shown(entry.target)}, which is not there: build the image again"
            )
        mode = self.tree.inode(number).mode
        if stat.S_ISDIR(mode):
            raise ImageRefused(
                f"a hard link to {shown(entry.target)}, which is a directory: build the image again"
            )
        self.tree.make_room(parent, name)
        # Before the other goes: what it replaces may be the last other name of the same file.
        self.tree.count_links(number, 1)
        self._clear(parent, name, there)
        self.tree.link(parent, name, number, mode)

    def _clear(self, parent: int, name: bytes, there: int | None) -> None:
        if there is not None:
            self.tree.delete(parent, name)


def _check_acls(entry: Entry) -> None:
    for name, value in entry.xattrs:
        if name in _ACL_NAMES and (value[:4] != _ACL_VERSION or len(value) % 8 != 4):
            raise ImageRefused(f"the ACL of {shown(entry.path)} is not of version 2: build the image again")


def _written_pieces(data: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Runs of blocks that are not all zero, each with its offset: a hole reads as zeros and takes no block."""
    start = 0
    for piece in data:
        run = 0
        for offset in range(0, len(piece), BLOCK):
            if _ZEROS.startswith(piece[offset : offset + BLOCK]):
                if run < offset:
                    yield start + run, piece[run:offset]
                run = offset + BLOCK
        if run < len(piece):
            yield start + run, piece[run:]
        start += len(piece)
