"""A volume after each layer of an image, one state a layer, and the blocks in which it differs from the one below.

Every state is checked by e2fsck before anybody uses it. Knows no keys and no registry.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from keyvisor_guest.containers.differences import Differences, differences
from keyvisor_guest.containers.errors import ImageRefused, Refusal, VolumeUnusable
from keyvisor_guest.containers.ext4.inodes import INODE_SIZE
from keyvisor_guest.containers.ext4.programs import check
from keyvisor_guest.containers.ext4.volume import Volume
from keyvisor_guest.containers.limits import BLOCK, DEFAULT_LIMITS, Limits
from keyvisor_guest.containers.tar_layers import Entry, EntryPath, Kind

__all__ = ["Measured", "State", "VolumeSize", "build_states", "copy_with_holes"]

_ROUND_BYTES: Final = 64 << 20
_ROUND_INODES: Final = 8192
_SHORT_SYMLINK: Final = 59  # bytes that fit the inode
_IN_INODE: Final = 80  # bytes of extended attributes that surely fit it


@dataclass(frozen=True, slots=True)
class VolumeSize:
    """What a volume is made with, once for all layers: holes cost nothing."""

    blocks: int
    inodes: int


class Measured:
    """What the entries of all layers need, counted one by one. Their data need not be read for it."""

    def __init__(self) -> None:
        self._bytes = 0
        self._entries = 0
        self._directories: set[EntryPath] = set()

    def add(self, entry: Entry) -> None:
        """One entry of one layer."""
        self._entries += 1
        self._bytes += -(-entry.size // BLOCK) * BLOCK + len(entry.path[-1] if entry.path else b"") + 16
        if len(entry.link) > _SHORT_SYMLINK:
            self._bytes += BLOCK
        if sum(len(name) + len(value) + 20 for name, value in entry.xattrs) > _IN_INODE:
            self._bytes += BLOCK
        directory = entry.path if entry.kind is Kind.DIRECTORY else entry.path[:-1]
        while directory and directory not in self._directories:
            self._directories.add(directory)
            directory = directory[:-1]

    def size(self, at_least: int = 0) -> VolumeSize:
        """Room for a quarter more than counted, in whole 64 MiB and 8192 inodes; `at_least` is in bytes."""
        inodes = _up((self._entries + len(self._directories)) * 13 // 10 + 16, _ROUND_INODES)
        data = self._bytes + len(self._directories) * BLOCK
        total = max(data * 5 // 4 + inodes * INODE_SIZE, inodes * BLOCK, at_least)
        return VolumeSize(blocks=_up(total, _ROUND_BYTES) // BLOCK, inodes=inodes)


@dataclass(frozen=True, slots=True)
class State:
    """The volume after layer `layer`, in the file at `path` until the next state is asked for."""

    layer: int
    path: Path
    differences: Differences


def build_states(
    directory: Path,
    uuid: UUID,
    size: VolumeSize,
    layers: Iterable[Iterable[Entry]],
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[State]:
    """One state a layer, from the lowest up; files are made in `directory`, in which the last state stays.

    Raises ImageRefused for layers that cannot be, and VolumeUnusable.
    """
    lower: Path | None = None
    for layer, entries in enumerate(layers):
        if layer >= limits.layers:
            raise ImageRefused(
                f"the image has more than {limits.layers} layers: squash some of them", Refusal.LIMIT
            )
        path = directory / f"layer-{layer}.ext4"
        if lower is None:
            volume = Volume.create(path, uuid, size.blocks, size.inodes, limits)
        else:
            copy_with_holes(lower, path)
            volume = Volume(path, limits)
        volume.apply(layer, entries)
        check(path)
        found = differences(lower, path)
        if lower is not None:
            lower.unlink()
        lower = path
        yield State(layer, path, found)


def copy_with_holes(source: Path, target: Path) -> None:
    """A copy of a file with the same holes. Raises VolumeUnusable where it becomes shorter meanwhile."""
    with source.open("rb") as old, target.open("xb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        position = 0
        while position < size:
            try:
                position = os.lseek(old.fileno(), position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            end = os.lseek(old.fileno(), position, os.SEEK_HOLE)
            while position < end:
                copied = os.copy_file_range(old.fileno(), new.fileno(), end - position, position, position)
                if not copied:
                    raise VolumeUnusable(
                        "a state of the volume became shorter: leave the directory of the build alone"
                    )
                position += copied


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
