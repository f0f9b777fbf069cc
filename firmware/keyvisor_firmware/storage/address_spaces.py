"""The host's address spaces: which absolute page each virtual one is, as the host has it mapped just now.

They are the host's own, and it may change them at any time: who relies on a mapping compares it with the zone-security
table. An address space has no size: what is not mapped is a hole. Knows no zone and no guest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from keyvisor_firmware.storage.intervals import Change, Interval, IntervalMap
from keyvisor_firmware.storage.pages import Span

__all__ = ["AddressSpaces", "Frame"]


@dataclass(frozen=True, slots=True)
class Frame:
    """The absolute address that a virtual one leads to."""

    absolute: int

    def ahead(self, distance: int) -> Frame:
        """Where the address `distance` bytes further on leads to."""
        return Frame(self.absolute + distance)


class AddressSpaces:
    """Every address space that has a page mapped, by its ASCE."""

    def __init__(self, spaces: Mapping[int, Iterable[Interval[Frame]]] | None = None) -> None:
        """Raises ValueError for intervals of one space that are empty, below zero, or overlap."""
        made = {asce: IntervalMap(intervals) for asce, intervals in (spaces or {}).items()}
        self._spaces = {asce: space for asce, space in made.items() if len(space)}

    def spaces(self) -> tuple[int, ...]:
        """The ASCEs under which something is mapped, ascending."""
        return tuple(sorted(self._spaces))

    def intervals(self, asce: int) -> Iterator[Interval[Frame]]:
        """All that is mapped under `asce`, ascending."""
        return iter(self._space(asce))

    def pieces(self, asce: int, start: int, length: int) -> Iterator[Interval[Frame]]:
        """What is mapped of `length` bytes from `start`, ascending, cut there; what is missing is a hole."""
        return self._space(asce).clipped(start, start + length)

    def translate(self, asce: int, start: int, length: int) -> tuple[Span, ...] | None:
        """The absolute spans of `length` bytes from `start`, in virtual order, joined where they adjoin; None for a hole."""
        spans: list[Span] = []
        position = start
        for piece in self.pieces(asce, start, length):
            if piece.start != position:
                return None
            position = piece.end
            absolute = piece.value.absolute
            if spans and spans[-1].end == absolute:
                spans[-1] = Span(spans[-1].start, spans[-1].length + piece.length)
            else:
                spans.append(Span(absolute, piece.length))
        return tuple(spans) if position == start + length else None

    def mapping(self, asce: int, virtual: int, frames: Span) -> Change[Frame]:
        """The change after which `frames` are mapped from `virtual` on, whatever was there. Changes nothing itself.

        Raises ValueError for frames without length.
        """
        mapped = Interval(virtual, virtual + frames.length, Frame(frames.start))
        return self._space(asce).setting([mapped])

    def unmapping(self, asce: int, virtual: Span) -> Change[Frame]:
        """The change after which nothing is mapped in `virtual`. Changes nothing itself."""
        return self._space(asce).clearing([virtual])

    def apply(self, asce: int, change: Change[Frame]) -> None:
        """Make the change. Raises ValueError, and changes nothing, where it was not made for this space as it is."""
        space = self._space(asce)
        space.apply(change)
        if len(space):
            self._spaces[asce] = space
        else:
            self._spaces.pop(asce, None)

    def _space(self, asce: int) -> IntervalMap[Frame]:
        return self._spaces.get(asce) or IntervalMap()
