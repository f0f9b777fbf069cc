"""Runs of blocks sealed on a thread beside the caller's, which reads the next and stores the last meanwhile.

The ciphers let other threads run while they work, and so does the hash of what is stored. One thread is enough: it seals faster
than that hash is made, and a hash cannot be made in parallel. Runs come back in their order. Knows no blob and no plan.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from keyvisor_guest.containers.blocks import LayerBlocks

__all__ = ["SealedRun", "sealed_runs"]

_AHEAD: Final = 3  # runs that are sealed or wait to be stored, each with room of its own


@dataclass(frozen=True, slots=True)
class SealedRun:
    """A run as it is stored, with its tags. `stored` is good until the next run is asked for."""

    plain: bytes
    stored: memoryview
    tags: bytes


def sealed_runs(
    runs: Iterable[tuple[int, bytes]], blocks: Callable[[], LayerBlocks], *, few: bool
) -> Generator[SealedRun, None, None]:
    """The runs (first block, content), sealed, in their order. `blocks()` makes the layer's cipher, with room of its own.

    Where there are `few`, no thread is started.
    """
    if few:
        cipher = blocks()
        for first, plain in runs:
            yield _seal(cipher, first, plain)
        return
    ciphers = [blocks() for _ in range(_AHEAD)]
    waiting: deque[Future[SealedRun]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for number, (first, plain) in enumerate(runs):
            if number >= _AHEAD:  # the cipher's last run has to be stored before its room is used again
                yield waiting.popleft().result()
            waiting.append(pool.submit(_seal, ciphers[number % _AHEAD], first, plain))
        while waiting:
            yield waiting.popleft().result()


def _seal(cipher: LayerBlocks, first: int, plain: bytes) -> SealedRun:
    stored, tags = cipher.seal(first, plain)
    return SealedRun(plain, stored, tags)
