"""Regions looked up by what they pin down, so that thousands of rules are not compared with each other.

Rules that differ in MKVP or serial number never meet: those that could meet a region are found by these two.
Knows boxes, and not what they stand for.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from keyvisor_policy.regions import Box, intersect
from keyvisor_policy.value_sets import K, Names

P = TypeVar("P")
V = TypeVar("V")

_OPEN = object()
"""The key of regions that name no finite set of values."""

_Keys = dict[Hashable, dict[Hashable, list[int]]]


class Index(Generic[P]):
    """Regions in order, each with what it stands for; of the same region the first counts."""

    def __init__(self, entries: Iterable[tuple[Box, P]]) -> None:
        self._of: dict[Box, P] = {}
        for box, what in entries:
            self._of.setdefault(box, what)
        self._entries = tuple(self._of.items())
        self._numbers: dict[str, _Keys] = {}
        self._counts: Counter[str] = Counter(box.mode for box in self._of)
        for number, box in enumerate(self._of):
            by_mkvp = self._numbers.setdefault(box.mode, {})
            for mkvp in _keys(box.mkvp):
                for serial in _keys(box.serial):
                    by_mkvp.setdefault(mkvp, {}).setdefault(serial, []).append(number)

    def count(self, mode: str) -> int:
        """How many different regions of this mode there are."""
        return self._counts[mode]

    def meeting(self, box: Box) -> Iterator[tuple[Box, P]]:
        """The entries that have something in common with `box`, in order."""
        last = -1
        for number in heapq.merge(*self._near(box)):
            there, what = self._entries[number]
            if number != last and intersect(box, there) is not None:
                yield there, what
            last = number

    def _near(self, box: Box) -> Iterator[list[int]]:
        for by_serial in _reached(box.mkvp, self._numbers.get(box.mode, {})):
            yield from _reached(box.serial, by_serial)


def _keys(names: Names[K]) -> Iterable[Hashable]:
    return (_OPEN,) if names.rest else names.named


def _reached(names: Names[K], by_key: Mapping[Hashable, V]) -> Iterator[V]:
    if names.rest:
        yield from by_key.values()
    else:
        yield from (by_key[key] for key in (*names.named, _OPEN) if key in by_key)
