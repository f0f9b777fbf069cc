"""The page that one guest's gate shares with the daemon: per HSM one word, which only the daemon writes.

A word is epoch << 8 | state, in eight aligned bytes, so that a reader sees the old or the new one and never a
mixture. Every change has an epoch of its own: a grant is good for as long as the word is the one it was made for.
"""

from __future__ import annotations

import enum
import fcntl
import mmap
import os
from typing import Final

PAGE: Final = 4096
MAX_HSMS: Final = 256  # of one guest: as many words as one message to the gate can tell about


class HsmState(enum.IntEnum):
    """What the gate has to know of an association."""

    UNBOUND = 0
    BOUND = 1
    ASSOCIATED = 2


def word(epoch: int, state: HsmState) -> int:
    """The word for a state that began with `epoch`."""
    return epoch << 8 | state


def state_of(value: int) -> HsmState:
    """The state in a word."""
    return HsmState(value & 0xFF)


_F_SEAL_FUTURE_WRITE: Final = 0x10  # linux/fcntl.h, since Linux 5.1; the fcntl module does not name it yet
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL


class StatePage:
    """The daemon's side. `descriptor` is what the gate inherits: sealed, so that it can be read and nothing else.

    A gate that could cut the page short would end the daemon at its next write.
    """

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("keyvisor-states", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, PAGE)
        self._map = mmap.mmap(self.descriptor, PAGE)
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
        self._words = memoryview(self._map).cast("Q")

    def set(self, index: int, value: int) -> None:
        """Publish the word of the HSM at `index`: the gate's next look sees it."""
        self._words[index] = value

    def close(self) -> None:
        """Give the page up."""
        self._words.release()
        self._map.close()
        os.close(self.descriptor)


def map_states(descriptor: int) -> memoryview:
    """The gate's side: the words, readable only."""
    return memoryview(mmap.mmap(descriptor, PAGE, prot=mmap.PROT_READ)).cast("Q")
