"""The frame allocator of the emulated host kernel: which storage the host has reserved, and what for.

A convenience of the host's. The firmware never trusts it: what may be donated is decided by the zone-security table.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from keyvisor_firmware.errors import Conflict, Malformed
from keyvisor_firmware.storage.intervals import Change, GroupedMap, Interval, IntervalMap
from keyvisor_firmware.storage.pages import LOWCORE, PAGE, Span, is_whole
from keyvisor_firmware.storage.zone_table import ZoneTable

__all__ = ["Allocation", "Frames", "Freeing", "Label"]

_REMEMBERED: Final = 64  # answers kept for the next question of the same kind


@dataclass(frozen=True, slots=True)
class Label:
    """What storage is reserved for, in the host's words."""

    text: str

    def ahead(self, distance: int) -> Label:
        """The same: a label does not differ along its interval."""
        return self


@dataclass(frozen=True, slots=True)
class Allocation:
    """Storage to reserve, and the change that does it."""

    span: Span
    change: Change[Label]


@dataclass(frozen=True, slots=True)
class Freeing:
    """The change that frees a label's storage: what is free then, and how many bytes stay since they are secure."""

    change: Change[Label]
    spans: tuple[Span, ...]
    kept: int

    @property
    def freed(self) -> int:
        """Bytes that are free then."""
        return sum(span.length for span in self.spans)


class Frames(GroupedMap[Label]):
    """The reserved storage; its groups are the labels. What is in no interval and is not secure is free."""

    def __init__(self, intervals: Iterable[Interval[Label]] = ()) -> None:
        super().__init__(intervals)
        self._reserved: IntervalMap[Label] = (
            IntervalMap()
        )  # the same storage, whatever its label: far fewer intervals
        self._reserved.apply(self._reserved.setting([_unlabelled(interval) for interval in self]))
        self._lowest: dict[
            tuple[int, int, int], int
        ] = {}  # below which no such piece is; right until one is freed

    @staticmethod
    def group_of(value: Label) -> Hashable:
        return value.text

    def apply(self, change: Change[Label]) -> None:
        super().apply(change)
        self._reserved.apply(self._reserved.clearing([interval.span for interval in change.removed]))
        self._reserved.apply(self._reserved.setting([_unlabelled(interval) for interval in change.added]))
        if not all(self._is_reserved(interval.span) for interval in change.removed):
            self._lowest.clear()

    def labels(self) -> tuple[str, ...]:
        """Every label that has storage, ascending."""
        return tuple(sorted(str(label) for label in self.groups()))

    def labelled(self, label: str) -> tuple[Span, ...]:
        """The storage reserved under `label`, ascending."""
        return tuple(interval.span for interval in self.in_group(label))

    def is_labelled(self, span: Span, label: str) -> bool:
        """Whether all of `span` is reserved under `label`."""
        mine = (one.length for one in self.clipped(span.start, span.end) if one.value.text == label)
        return sum(mine) == span.length

    def allocating(
        self, label: str, length: int, alignment: int, at_least: int, occupied: ZoneTable, size: int
    ) -> Allocation:
        """`length` bytes in one piece: the lowest that are neither reserved nor secure. Changes nothing itself.

        They begin at a multiple of `alignment`, at or above `at_least` and the lowcore, and end inside of `size`. Raises
        Malformed for what is not whole pages, and Conflict, which tells the bytes that are missing.
        """
        if length <= 0 or alignment <= 0 or not is_whole(length, alignment):
            raise Malformed(
                f"{length} bytes aligned to {alignment} are not whole pages; ask for multiples of {PAGE}"
            )
        start = self._lowest_unreserved(max(at_least, LOWCORE), length, alignment)
        while start + length <= size:
            secure = occupied.last_overlapping(start, start + length)
            if secure is None:
                span = Span(start, length)
                return Allocation(span, self.setting([Interval(span.start, span.end, Label(label))]))
            start = self._next_unreserved(secure.end, length, alignment)
        longest = self._longest(alignment, at_least, occupied, size)
        raise Conflict(
            f"no {length} bytes of storage are free in one piece from {at_least:#x} on: {length - longest} bytes are"
            " missing; free storage, destroy a guest, or configure more `storage`"
        )

    def freeing(self, label: str, zone: ZoneTable, in_use: Collection[int] = ()) -> Freeing:
        """All storage of `label` becomes free, but for what cannot be used again yet: what is secure, and pages `in_use`."""
        spans = self.labelled(label)
        parts = (part for span in spans for part in _non_secure(span, zone))
        free = tuple(piece for part in parts for piece in _without(part, in_use))
        kept = sum(span.length for span in spans) - sum(span.length for span in free)
        return Freeing(self.clearing(free), free, kept)

    def free(self, occupied: ZoneTable, size: int, at_least: int = 0) -> Iterator[Span]:
        """What is neither reserved nor secure from `at_least` and the lowcore on, ascending."""
        position = max(at_least, LOWCORE)
        for span in heapq.merge(
            (interval.span for interval in self._reserved.overlapping(position, size)),
            (interval.span for interval in occupied.overlapping(position, size)),
        ):
            if span.start > position:
                yield Span(position, span.start - position)
            position = max(position, span.end)
        if position < size:
            yield Span(position, size - position)

    def _is_reserved(self, span: Span) -> bool:
        around = self._reserved.at(span.start)
        return around is not None and around.end >= span.end

    def _lowest_unreserved(self, at_least: int, length: int, alignment: int) -> int:
        """The lowest fitting address from `at_least` on; looked for from where it was the last time."""
        asked = (at_least, length, alignment)
        found = self._next_unreserved(self._lowest.get(asked, at_least), length, alignment)
        if len(self._lowest) >= _REMEMBERED:
            self._lowest.clear()
        self._lowest[asked] = found
        return found

    def _next_unreserved(self, start: int, length: int, alignment: int) -> int:
        """The lowest multiple of `alignment` from `start` on that has `length` bytes behind it in no reserved interval."""
        start = _aligned(start, alignment)
        while blocking := self._reserved.last_overlapping(start, start + length):
            start = _aligned(blocking.end, alignment)
        return start

    def _longest(self, alignment: int, at_least: int, occupied: ZoneTable, size: int) -> int:
        free = self.free(occupied, size, at_least)
        return max((max(0, span.end - _aligned(span.start, alignment)) for span in free), default=0)


def _aligned(address: int, alignment: int) -> int:
    return -(-address // alignment) * alignment


def _non_secure(span: Span, zone: ZoneTable) -> Iterator[Span]:
    position = span.start
    for secure in zone.clipped(span.start, span.end):
        if position < secure.start:
            yield Span(position, secure.start - position)
        position = secure.end
    if position < span.end:
        yield Span(position, span.end - position)


def _without(span: Span, pages: Collection[int]) -> Iterator[Span]:
    position = span.start
    for page in sorted(page for page in pages if span.start <= page < span.end):
        if position < page:
            yield Span(position, page - position)
        position = page + PAGE
    if position < span.end:
        yield Span(position, span.end - position)


def _unlabelled(interval: Interval[Label]) -> Interval[Label]:
    return Interval(interval.start, interval.end, Label(""))
