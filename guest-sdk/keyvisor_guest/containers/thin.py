"""A layer's rows for a thin pool: which clusters of the pool its device has, beside those of the device below.

Device i is a snapshot of device i-1 (patents, part 4, 14 and 18). A cluster is 64 KiB, the least that dm-thin has; one
that a layer changes in part is mapped anew as a whole. Clusters are handed out in the order of layers, so a pool that
holds devices 0 to i needs no more than the rows of these layers. Knows no key and no content.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from keyvisor_guest.containers.runs import Runs, blocks_in, joined

__all__ = ["CLUSTER_BLOCKS", "Mapping", "ThinRows", "device_mapping", "rows_for"]

CLUSTER_BLOCKS: Final = 16


@dataclass(frozen=True, slots=True)
class ThinRows:
    """What one layer's device has of its own. Runs are of clusters of the volume.

    The n-th cluster of `mapped` is cluster `pool_first` + n of the pool; `unmapped` became zero as a whole.
    """

    pool_first: int
    mapped: Runs
    unmapped: Runs

    @property
    def pool_end(self) -> int:
        """The first cluster of the pool that is free for the layer above."""
        return self.pool_first + blocks_in(self.mapped)

    @property
    def rows(self) -> Iterator[Mapping]:
        """The rows, in order."""
        pool = self.pool_first
        for first, count in self.mapped:
            yield Mapping(first, pool, count)
            pool += count


@dataclass(frozen=True, slots=True)
class Mapping:
    """`count` clusters from `virtual` on are at `pool` and behind."""

    virtual: int
    pool: int
    count: int


def rows_for(changed: Runs, zero: Runs, pool_first: int) -> ThinRows:
    """The rows of a layer in which the blocks of `changed` have new content and those of `zero` none any more."""
    touched = [_clusters(first, first + count - 1) for first, count in changed]
    unmapped: list[tuple[int, int]] = []
    for first, count in zero:
        end = first + count
        whole, whole_end = -(-first // CLUSTER_BLOCKS), end // CLUSTER_BLOCKS
        if whole >= whole_end:
            touched.append(_clusters(first, end - 1))
            continue
        unmapped.append((whole, whole_end - whole))
        if first < whole * CLUSTER_BLOCKS:
            touched.append((whole - 1, 1))
        if whole_end * CLUSTER_BLOCKS < end:
            touched.append((whole_end, 1))
    return ThinRows(pool_first, joined(touched), joined(unmapped))


def _clusters(first_block: int, last_block: int) -> tuple[int, int]:
    first = first_block // CLUSTER_BLOCKS
    return first, last_block // CLUSTER_BLOCKS - first + 1


def device_mapping(layers: Sequence[ThinRows]) -> tuple[Mapping, ...]:
    """What the topmost device maps in all, in the order of the volume; touching rows stay apart."""
    mapping: list[Mapping] = []
    for layer in layers:
        cut = joined((*layer.mapped, *layer.unmapped))
        mapping = sorted((*_without(mapping, cut), *layer.rows), key=lambda row: row.virtual)
    return tuple(mapping)


def _without(mapping: Sequence[Mapping], cut: Runs) -> Iterator[Mapping]:
    at = 0
    for row in mapping:
        start, end = row.virtual, row.virtual + row.count
        while at < len(cut) and sum(cut[at]) <= start:
            at += 1
        following = at
        while start < end:
            first, last = (cut[following][0], sum(cut[following])) if following < len(cut) else (end, end)
            if first > start:
                kept = min(first, end) - start
                yield Mapping(start, row.pool + start - row.virtual, kept)
            start = max(start, last)
            following += 1
            if first >= end:
                break
