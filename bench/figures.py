"""Arithmetic of the tables: medians with their spread, ratios, geometric means. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, and the least and the most of them."""

    median: float
    least: float
    most: float


def spread(values: Sequence[float]) -> Spread:
    """Median, least and most. Raises ValueError where there are no values."""
    if not values:
        raise ValueError("no values")
    return Spread(statistics.median(values), min(values), max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """How many times `theirs` is `ours`, taken round by round. Raises ValueError for unequal numbers of rounds."""
    return spread([one / other for one, other in zip(ours, theirs, strict=True)])


def geometric_mean(values: Sequence[float]) -> float:
    """The n-th root of the product. Raises ValueError where there are no values, or one is not positive."""
    return statistics.geometric_mean(values)
