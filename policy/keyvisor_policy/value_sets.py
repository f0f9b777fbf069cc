"""Sets of values that one field may have: names, finite or all but finitely many, and ranges.

Pure and closed under what regions need: intersection and difference. A range has its first end and lacks its
second, so that touching ranges leave no gap and none has to say which value comes before another.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from keyvisor_policy.rules import T

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Names(Generic[K]):
    """A finite set, `named`, or with `rest` everything else."""

    named: frozenset[K] = frozenset()
    rest: bool = True

    def __contains__(self, value: K) -> bool:
        return (value in self.named) != self.rest

    def __bool__(self) -> bool:
        return self.rest or bool(self.named)

    def __invert__(self) -> Names[K]:
        return Names(self.named, not self.rest)

    def __and__(self, other: Names[K]) -> Names[K]:
        if self is other or self == other:
            return self
        if self.rest and other.rest:
            return Names(self.named | other.named)
        if self.rest or other.rest:
            finite, cofinite = (other, self) if self.rest else (self, other)
            return Names(finite.named - cofinite.named, rest=False)
        return Names(self.named & other.named, rest=False)


@dataclass(frozen=True, slots=True)
class Ranges(Generic[T]):
    """Disjoint, ascending ranges: from the first end on, up to the second and without it; None is no end."""

    parts: tuple[tuple[T, T | None], ...]

    def __contains__(self, value: T) -> bool:
        return any(low <= value and (high is None or value < high) for low, high in self.parts)

    def __bool__(self) -> bool:
        return bool(self.parts)

    def __and__(self, other: Ranges[T]) -> Ranges[T]:
        if self is other or self.parts == other.parts:
            return self
        met = (
            (max(low, other_low), _lower(high, other_high))
            for low, high in self.parts
            for other_low, other_high in other.parts
        )
        return Ranges(tuple((low, high) for low, high in met if high is None or low < high))

    def __sub__(self, other: Ranges[T]) -> Ranges[T]:
        left = self.parts
        for low, high in other.parts:
            left = tuple(piece for part in left for piece in _without(part, low, high))
        return Ranges(left)


def _lower(one: T | None, other: T | None) -> T | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _without(part: tuple[T, T | None], low: T, high: T | None) -> Iterator[tuple[T, T | None]]:
    """A range without another: what is below that one, and what is above."""
    first, last = part
    below = _lower(last, low)
    if below is not None and first < below:
        yield first, below
    if high is not None and (last is None or high < last):
        yield max(first, high), last
