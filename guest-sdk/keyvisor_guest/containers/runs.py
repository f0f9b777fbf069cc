"""Runs of blocks: (first block, count), sorted and disjoint. Knows no file and no layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

__all__ = ["Runs", "are_disjoint", "blocks_in", "check_runs", "joined"]

Runs: TypeAlias = tuple[tuple[int, int], ...]


def blocks_in(runs: Runs) -> int:
    """How many blocks the runs have."""
    return sum(count for _, count in runs)


def check_runs(runs: Runs, volume_blocks: int) -> None:
    """Sorted, disjoint, not empty, and inside a volume of `volume_blocks`. Raises ValueError with what is wrong."""
    end = 0
    for first, count in runs:
        if count < 1:
            raise ValueError(f"the run at block {first} has {count} blocks")
        if first < end:
            raise ValueError(f"the run at block {first} begins before {end}, where the one before it ends")
        end = first + count
    if end > volume_blocks:
        raise ValueError(f"the last run ends at block {end}, the volume at {volume_blocks}")


def are_disjoint(one: Runs, other: Runs) -> bool:
    """Whether no block is in both. Both are sorted and disjoint in themselves."""
    end = 0
    for first, count in sorted((*one, *other)):
        if first < end:
            return False
        end = first + count
    return True


def joined(runs: Iterable[tuple[int, int]]) -> Runs:
    """Sorted runs, where touching and overlapping ones have become one."""
    result: list[tuple[int, int]] = []
    for first, count in sorted(runs):
        if result and first <= sum(result[-1]):
            start, length = result[-1]
            result[-1] = (start, max(length, first + count - start))
        else:
            result.append((first, count))
    return tuple(result)
