"""The blocks in which two states of a volume differ (secure-containers, 6.2).

Holes are skipped where the file system tells of them, so that an empty volume costs nothing whatever its size. Knows no
file system in the volumes, and no keys.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keyvisor_guest.containers.errors import VolumeUnusable
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.runs import Runs

__all__ = ["Differences", "differences"]

_CHUNK: Final = 256 << 10
_ZEROS: Final = bytes(_CHUNK)


@dataclass(frozen=True, slots=True)
class Differences:
    """`changed`: blocks with other bytes that are not all zero; `zero`: blocks that have become all zero."""

    changed: Runs
    zero: Runs


def differences(lower: Path | None, upper: Path) -> Differences:
    """What `upper` has otherwise than `lower`; None stands for a volume of zeros.

    Both are files of the same size, a multiple of 4096 bytes. Raises VolumeUnusable where they are not.
    """
    changed, zero = _RunsInMaking(), _RunsInMaking()
    above = os.open(upper, os.O_RDONLY | os.O_CLOEXEC)
    below = -1
    try:
        size = os.fstat(above).st_size
        if lower is not None:
            below = os.open(lower, os.O_RDONLY | os.O_CLOEXEC)
            if os.fstat(below).st_size != size:
                raise VolumeUnusable("two states of a volume have different sizes: build the image again")
        if size % BLOCK:
            raise VolumeUnusable(
                f"a state of a volume is no whole number of blocks of {BLOCK} bytes: build the image again"
            )
        for offset in _chunks_with_data(above, below, size):
            length = min(_CHUNK, size - offset)
            new = os.pread(above, length, offset)
            old = os.pread(below, length, offset) if lower is not None else _ZEROS[:length]
            if new != old:
                _compare(new, old, offset // BLOCK, changed, zero)
    finally:
        os.close(above)
        if below >= 0:
            os.close(below)
    return Differences(changed.runs(), zero.runs())


class _RunsInMaking:
    """Ascending block numbers, put together."""

    def __init__(self) -> None:
        self._runs: list[tuple[int, int]] = []

    def add(self, block: int) -> None:
        if self._runs and sum(self._runs[-1]) == block:
            first, count = self._runs[-1]
            self._runs[-1] = first, count + 1
        else:
            self._runs.append((block, 1))

    def runs(self) -> Runs:
        return tuple(self._runs)


def _compare(new: bytes, old: bytes, first: int, changed: _RunsInMaking, zero: _RunsInMaking) -> None:
    for offset in range(0, len(new), BLOCK):
        block = new[offset : offset + BLOCK]
        if block != old[offset : offset + BLOCK]:
            (zero if _ZEROS.startswith(block) else changed).add(first + offset // BLOCK)


def _chunks_with_data(above: int, below: int, size: int) -> Iterator[int]:
    """Offsets of chunks in which one of the two may have data, ascending."""
    offset = 0
    while offset < size:
        following = min(_next_data(file, offset, size) for file in (above, below) if file >= 0)
        if following >= size:
            return
        offset = following // _CHUNK * _CHUNK
        yield offset
        offset += _CHUNK


def _next_data(file: int, offset: int, size: int) -> int:
    """The next offset at which a file has data; its size where there is none behind."""
    try:
        return os.lseek(file, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        if error.errno == errno.EINVAL:  # a file system that does not tell
            return offset
        raise
