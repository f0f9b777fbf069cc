"""A map from addresses to values in which one interval costs the same whatever its length.

Intervals are half open, disjoint, and kept in order: looking up is a binary search. A map changes by a Change that was
made for it and says exactly what goes and what comes, so that whoever keeps intervals elsewhere too does the same there.
Knows no storage: addresses are numbers.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, Self, TypeVar

from keyvisor_firmware.storage.pages import Span

__all__ = ["Change", "GroupedMap", "Interval", "IntervalMap", "Moving"]

_FEW: Final = 64  # intervals that are cheaper put in one by one than by building their neighbourhood again


class Moving(Protocol):
    """A value that may differ along its interval."""

    def ahead(self, distance: int) -> Self:
        """The value `distance` bytes further on; back, where it is negative."""
        ...


V = TypeVar("V", bound=Moving)


@dataclass(frozen=True, slots=True)
class Interval(Generic[V]):
    """The addresses `start` <= a < `end`; `value` is that of the first."""

    start: int
    end: int
    value: V

    @property
    def length(self) -> int:
        """Bytes in it."""
        return self.end - self.start

    @property
    def span(self) -> Span:
        """Where it is, without its value."""
        return Span(self.start, self.length)

    def within(self, start: int, end: int) -> Interval[V]:
        """What of it lies in `start`..`end`, which it has to overlap."""
        if start <= self.start and self.end <= end:
            return self
        first = max(self.start, start)
        return Interval(first, min(self.end, end), self.value.ahead(first - self.start))

    def is_continued_by(self, other: Interval[V]) -> bool:
        """Whether `other` begins where this ends, with the value that this would have there."""
        return self.end == other.start and self.value.ahead(self.length) == other.value


@dataclass(frozen=True, slots=True)
class Change(Generic[V]):
    """What goes out of a map and what comes into it, both ascending."""

    removed: tuple[Interval[V], ...] = ()
    added: tuple[Interval[V], ...] = ()

    def inverse(self) -> Change[V]:
        """What undoes it."""
        return Change(self.added, self.removed)


class IntervalMap(Generic[V]):
    """Intervals that do not overlap, and what they stand for; an address in none of them has no value."""

    def __init__(self, intervals: Iterable[Interval[V]] = ()) -> None:
        """Raises ValueError for intervals that are empty, below zero, or overlap."""
        self._intervals = sorted(intervals, key=_start)
        _require_disjoint(self._intervals)
        self._starts = [interval.start for interval in self._intervals]

    def __len__(self) -> int:
        """The number of intervals."""
        return len(self._intervals)

    def __iter__(self) -> Iterator[Interval[V]]:
        """The intervals, ascending."""
        return iter(self._intervals)

    def at(self, address: int) -> Interval[V] | None:
        """The interval that `address` is in."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0 or self._intervals[index].end <= address:
            return None
        return self._intervals[index]

    def overlapping(self, start: int, end: int) -> Iterator[Interval[V]]:
        """The intervals that have a byte in `start`..`end`, ascending, as they stand."""
        for index in range(*self._indexes(start, end)):
            yield self._intervals[index]

    def last_overlapping(self, start: int, end: int) -> Interval[V] | None:
        """The highest interval that has a byte in `start`..`end`."""
        first, behind = self._indexes(start, end)
        return self._intervals[behind - 1] if first < behind else None

    def clipped(self, start: int, end: int) -> Iterator[Interval[V]]:
        """What lies in `start`..`end`, ascending: intervals cut there, with the value at their first byte."""
        return (interval.within(start, end) for interval in self.overlapping(start, end))

    def setting(self, pieces: Sequence[Interval[V]]) -> Change[V]:
        """The change after which `pieces` are there, whatever is there now. Changes nothing itself.

        Raises ValueError for pieces that are empty, below zero, or overlap.
        """
        ordered = sorted(pieces, key=_start)
        _require_disjoint(ordered)
        return self._changing([piece.span for piece in ordered], ordered)

    def clearing(self, spans: Iterable[Span]) -> Change[V]:
        """The change after which there is nothing in `spans`, which may overlap. Changes nothing itself."""
        return self._changing(_merged_spans(spans), [])

    def apply(self, change: Change[V]) -> None:
        """Make the change. Raises ValueError, and changes nothing, where it was not made for this map as it is."""
        self._require_fitting(change)
        if len(change.removed) + len(change.added) <= _FEW:
            self._replace_each(change)
        else:
            self._replace_neighbourhood(change)

    def _indexes(self, start: int, end: int) -> tuple[int, int]:
        """The indexes of what overlaps: from the first, before the second."""
        if end <= start:
            return 0, 0
        first = bisect.bisect_right(self._starts, start)
        if first and self._intervals[first - 1].end > start:
            first -= 1
        return first, bisect.bisect_left(self._starts, end, first)

    def _changing(self, spans: Sequence[Span], pieces: Sequence[Interval[V]]) -> Change[V]:
        touched = list(self._touching(spans))
        rest = list(_without(touched, spans))
        after = list(_joined(sorted(itertools.chain(rest, pieces), key=_start)))
        old = {interval.start: interval for interval in touched}
        new = {interval.start: interval for interval in after}
        return Change(
            tuple(interval for interval in touched if new.get(interval.start) != interval),
            tuple(interval for interval in after if old.get(interval.start) != interval),
        )

    def _touching(self, spans: Sequence[Span]) -> Iterator[Interval[V]]:
        """The intervals that overlap or adjoin one of the ascending `spans`, each once."""
        seen = 0
        for span in spans:
            first = bisect.bisect_left(self._starts, span.start)
            if first and self._intervals[first - 1].end >= span.start:
                first -= 1
            behind = bisect.bisect_right(self._starts, span.end, first)
            yield from self._intervals[max(first, seen) : behind]
            seen = max(seen, behind)

    def _require_fitting(self, change: Change[V]) -> None:
        removed = {}
        for interval in change.removed:
            if self.at(interval.start) != interval or interval.start in removed:
                raise ValueError(f"{interval} is to be removed, and is not there")
            removed[interval.start] = interval
        added = sorted(change.added, key=_start)
        _require_disjoint(added)
        for interval in added:
            for present in self.overlapping(interval.start, interval.end):
                if present.start not in removed:
                    raise ValueError(f"{interval} is to be added over {present}")

    def _replace_each(self, change: Change[V]) -> None:
        for interval in change.removed:
            index = bisect.bisect_left(self._starts, interval.start)
            del self._starts[index], self._intervals[index]
        for interval in change.added:
            index = bisect.bisect_left(self._starts, interval.start)
            self._starts.insert(index, interval.start)
            self._intervals.insert(index, interval)

    def _replace_neighbourhood(self, change: Change[V]) -> None:
        every = (*change.removed, *change.added)
        first = bisect.bisect_left(self._starts, min(interval.start for interval in every))
        behind = bisect.bisect_left(self._starts, max(interval.end for interval in every))
        removed = {interval.start for interval in change.removed}
        kept = [interval for interval in self._intervals[first:behind] if interval.start not in removed]
        intervals = sorted(itertools.chain(kept, change.added), key=_start)
        self._intervals[first:behind] = intervals
        self._starts[first:behind] = [interval.start for interval in intervals]


class GroupedMap(IntervalMap[V]):
    """An interval map that finds all intervals of one group without looking through the others."""

    def __init__(self, intervals: Iterable[Interval[V]] = ()) -> None:
        super().__init__(intervals)
        self._groups: dict[Hashable, dict[int, Interval[V]]] = {}
        self._group(self)

    @staticmethod
    def group_of(value: V) -> Hashable:
        """The group that an interval with `value` is in, the same all along it."""
        raise NotImplementedError

    def groups(self) -> tuple[Hashable, ...]:
        """Every group that has an interval."""
        return tuple(self._groups)

    def in_group(self, group: Hashable) -> tuple[Interval[V], ...]:
        """The intervals of `group`, ascending."""
        return tuple(sorted(self._groups.get(group, {}).values(), key=_start))

    def apply(self, change: Change[V]) -> None:
        super().apply(change)
        for interval in change.removed:
            group = self.group_of(interval.value)
            del self._groups[group][interval.start]
            if not self._groups[group]:
                del self._groups[group]
        self._group(change.added)

    def _group(self, intervals: Iterable[Interval[V]]) -> None:
        for interval in intervals:
            self._groups.setdefault(self.group_of(interval.value), {})[interval.start] = interval


def _start(interval: Interval[V]) -> int:
    return interval.start


def _require_disjoint(ordered: Sequence[Interval[V]]) -> None:
    if ordered and ordered[0].start < 0:
        raise ValueError(f"{ordered[0]} begins below zero")
    for interval in ordered:
        if interval.end <= interval.start:
            raise ValueError(f"{interval} is empty")
    for one, next_one in itertools.pairwise(ordered):
        if next_one.start < one.end:
            raise ValueError(f"{one} and {next_one} overlap")


def _merged_spans(spans: Iterable[Span]) -> list[Span]:
    """`spans` ascending, without those that are empty; those that overlap or adjoin become one."""
    merged: list[Span] = []
    for span in sorted(span for span in spans if span.length > 0):
        if merged and span.start <= merged[-1].end:
            start = merged[-1].start
            merged[-1] = Span(start, max(merged[-1].end, span.end) - start)
        else:
            merged.append(span)
    return merged


def _without(intervals: Sequence[Interval[V]], spans: Sequence[Span]) -> Iterator[Interval[V]]:
    """What is left of `intervals` outside of `spans`; both ascending and disjoint."""
    index = 0
    for interval in intervals:
        while index < len(spans) and spans[index].end <= interval.start:
            index += 1
        position, cutting = interval.start, index
        while position < interval.end:
            cut = spans[cutting] if cutting < len(spans) else Span(interval.end, 0)
            if position < cut.start:
                yield interval.within(position, min(cut.start, interval.end))
            if cut.start >= interval.end:
                break
            position, cutting = cut.end, cutting + 1


def _joined(ordered: Iterable[Interval[V]]) -> Iterator[Interval[V]]:
    """Ascending intervals, with those as one that continue each other."""
    present: Interval[V] | None = None
    for interval in ordered:
        if present is None:
            present = interval
        elif present.is_continued_by(interval):
            present = Interval(present.start, interval.end, present.value)
        else:
            yield present
            present = interval
    if present is not None:
        yield present
