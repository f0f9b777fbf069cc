"""The volume put together out of its layers: which blob holds which block, the topmost layer first (patents, part 4, 7).

Takes maps and no key: whoever carries an image can put its ciphertext in order. Costs as much as there are runs, not
as much as there are blocks.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from keyvisor_guest.containers.layer_map import LayerPlan

__all__ = ["BlockOrder", "Piece"]

_ZERO: Final = -1


@dataclass(frozen=True, slots=True)
class Piece:
    """`count` blocks of the volume from `first` on: in `layer`'s data blob from its block `index` on.

    Zeros, where `layer` is None.
    """

    first: int
    count: int
    layer: int | None
    index: int = 0


class BlockOrder:
    """The volume of all layers given, bottom first. `stored`: its pieces that some blob holds, sorted and disjoint."""

    __slots__ = ("_firsts", "stored", "volume_blocks")

    def __init__(self, layers: Iterable[LayerPlan]) -> None:
        plans = tuple(layers)
        self.volume_blocks: Final = max((plan.volume_blocks for plan in plans), default=0)
        self.stored: Final = tuple(_topmost(plans))
        self._firsts = [piece.first for piece in self.stored]

    def pieces(self, first: int, count: int) -> Iterator[Piece]:
        """The pieces, zeros included, that make up `count` blocks from `first` on, in order and without a gap."""
        end = first + count
        at = max(bisect_right(self._firsts, first) - 1, 0)
        while first < end:
            piece = self.stored[at] if at < len(self.stored) else Piece(end, 0, None)
            if piece.first + piece.count <= first < end and at < len(self.stored):
                at += 1
                continue
            if first < piece.first:
                gap = min(piece.first, end) - first
                yield Piece(first, gap, None)
                first += gap
                continue
            skipped = first - piece.first
            taken = min(piece.count - skipped, end - first)
            yield Piece(first, taken, piece.layer, piece.index + skipped)
            first += taken
            at += 1


def _topmost(plans: tuple[LayerPlan, ...]) -> Iterator[Piece]:
    """Sweeps over the volume; of the runs that are open at a place the topmost layer's counts."""
    runs = sorted(_runs(plans))
    edges = sorted({edge for first, _, count, _ in runs for edge in (first, first + count)})
    opened: list[tuple[int, int, int, int]] = []  # topmost first: (-layer, first, end, index)
    pending: Piece | None = None
    at = 0
    for edge, following in pairwise(edges):
        while at < len(runs) and runs[at][0] == edge:
            first, rank, count, index = runs[at]
            heapq.heappush(opened, (rank, first, first + count, index))
            at += 1
        while opened and opened[0][2] <= edge:
            heapq.heappop(opened)
        if not opened or opened[0][3] == _ZERO:
            continue
        rank, first, _, index = opened[0]
        piece = Piece(edge, following - edge, -rank, index + edge - first)
        if pending and _continues(pending, piece):
            pending = Piece(pending.first, pending.count + piece.count, pending.layer, pending.index)
            continue
        if pending:
            yield pending
        pending = piece
    if pending:
        yield pending


def _continues(one: Piece, other: Piece) -> bool:
    return (one.layer, one.first + one.count, one.index + one.count) == (
        other.layer,
        other.first,
        other.index,
    )


def _runs(plans: tuple[LayerPlan, ...]) -> Iterator[tuple[int, int, int, int]]:
    for rank, plan in enumerate(plans):
        index = 0
        for first, count in plan.extents:
            yield first, -rank, count, index
            index += count
        for first, count in plan.zero:
            yield first, -rank, count, _ZERO
