"""Sets of numbered things as bit masks, found by a value: which intervals contain it, which sets of names are inside.

One operation of whole masks stands for thousands of comparisons; that is what makes ten thousand rules quick. Where
every thing has its own value, as many masks as things would be too much memory: whole ones are kept every so often.
Knows values, and not what the numbers stand for.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from keyvisor_policy.rules import Interval, T

K = TypeVar("K", bound=Hashable)

STRIDE = 16
"""A whole mask is kept before every so many steps: at most so many bits are flipped to find another."""


def members(mask: int) -> Iterator[int]:
    """The numbers in a mask, ascending."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def by_value(values: Iterable[K]) -> dict[K, int]:
    """Per value the mask of the numbers that have it."""
    found: dict[K, int] = {}
    for number, value in enumerate(values):
        found[value] = found.get(value, 0) | 1 << number
    return found


class Steps:
    """Masks of which each differs from the one before in one bit."""

    def __init__(self, first: int, flipped: Iterable[int]) -> None:
        self._flipped = tuple(flipped)
        self._kept = [first]
        mask = first
        for step, number in enumerate(self._flipped, 1):
            mask ^= 1 << number
            if step % STRIDE == 0:
                self._kept.append(mask)

    def after(self, steps: int) -> int:
        """The mask after so many steps: 0 to as many as there are."""
        whole, rest = divmod(steps, STRIDE)
        mask = self._kept[whole]
        for number in self._flipped[steps - rest : steps]:
            mask ^= 1 << number
        return mask


class Intervals(Generic[T]):
    """Numbered intervals, None being all values; none is empty. The mask changes where one begins or ends."""

    def __init__(self, intervals: Sequence[Interval[T] | None]) -> None:
        unbounded: Interval[T] = Interval()
        changes: list[tuple[T, int, int]] = []
        below = 0
        for number, interval in enumerate(one or unbounded for one in intervals):
            if interval.lowest is None:
                below |= 1 << number
            else:
                changes.append((interval.lowest, _BEGINS, number))
            if interval.highest is not None:
                changes.append((interval.highest, _ENDS, number))
        changes.sort()
        self._places: list[tuple[T, int]] = [change[:2] for change in changes]
        self._masks = Steps(below, (number for *_, number in changes))

    def containing(self, value: T) -> int:
        """Those that contain the value."""
        return self._masks.after(bisect_right(self._places, (value, _BEGINS)))

    def covering(self, interval: Interval[T] | None) -> int:
        """Those that contain every value of the interval: both of its ends are enough."""
        low = None if interval is None else interval.lowest
        high = None if interval is None else interval.highest
        from_low = self._masks.after(0) if low is None else self.containing(low)
        to_high = self._masks.after(len(self._places)) if high is None else self.containing(high)
        return from_low & to_high


_BEGINS, _ENDS = 0, 1  # an interval has its last value still, so that it ends after all that begin there


class Values(Generic[T]):
    """Numbered values, found by an interval."""

    def __init__(self, values: Sequence[T]) -> None:
        order = sorted(range(len(values)), key=values.__getitem__)
        self._sorted: list[T] = [values[number] for number in order]
        self._masks = Steps(0, order)

    def inside(self, interval: Interval[T]) -> int:
        """Those that the interval contains."""
        low = 0 if interval.lowest is None else bisect_left(self._sorted, interval.lowest)
        high = len(self._sorted) if interval.highest is None else bisect_right(self._sorted, interval.highest)
        return self._masks.after(high) & ~self._masks.after(low) if low < high else 0


class NameSets:
    """Numbered sets of names, found by a set that they have to be inside.

    Two ways, and each question takes the shorter: to leave out, name by name, all sets with a name that is not there; or
    to look at the sets whose rarest name is there.
    """

    def __init__(self, sets: Sequence[frozenset[str]]) -> None:
        often = Counter(name for names in sets for name in names)
        self._having: dict[str, int] = dict.fromkeys(often, 0)
        self._by_rarest: dict[str, dict[frozenset[str], int]] = {}
        self._empty = 0
        for number, names in enumerate(sets):
            for name in names:
                self._having[name] |= 1 << number
            if names:
                rarest = min(names, key=lambda name: (often[name], name))
                same = self._by_rarest.setdefault(rarest, {})
                same[names] = same.get(names, 0) | 1 << number
            else:
                self._empty |= 1 << number
        self._all = (1 << len(sets)) - 1

    def inside(self, names: Collection[str]) -> int:
        """Those that have no name but these."""
        reached = [self._by_rarest[name] for name in names if name in self._by_rarest]
        if len(self._having) < sum(map(len, reached)):
            return self._without(names)
        mask = self._empty
        for sets in reached:
            for one, numbers in sets.items():
                if one.issubset(names):
                    mask |= numbers
        return mask

    def _without(self, names: Collection[str]) -> int:
        mask = self._all
        for name, having in self._having.items():
            if name not in names:
                mask &= ~having
        return mask


class Tally:
    """How many masks each number was in: a binary number each, of which a mask per digit is kept, the lowest first."""

    def __init__(self) -> None:
        self._digits: list[int] = []

    def add(self, mask: int) -> None:
        """Count one more for each number in the mask."""
        for at, digit in enumerate(self._digits):
            self._digits[at], mask = digit ^ mask, digit & mask
        if mask:
            self._digits.append(mask)

    def counted(self, times: int, among: int) -> int:
        """Those among the given ones that were counted so many times."""
        if times >> len(self._digits):
            return 0
        for at, digit in enumerate(self._digits):
            among &= digit if times >> at & 1 else ~digit
        return among
