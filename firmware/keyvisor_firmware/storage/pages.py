"""Sizes of storage and spans of it, in bytes. Knows no storage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["LOWCORE", "MIB", "PAGE", "Span", "is_whole", "whole_pages"]

PAGE: Final = 4096
MIB: Final = 1 << 20
LOWCORE: Final = 2 * PAGE  # the first bytes of absolute storage, which the machine itself uses


def whole_pages(length: int) -> int:
    """`length` bytes, rounded up to whole pages."""
    return -(-length // PAGE) * PAGE


def is_whole(*numbers: int) -> bool:
    """Whether each of the addresses or lengths is a multiple of a page."""
    return all(number % PAGE == 0 for number in numbers)


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """`length` bytes of storage from the address `start`."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.start + self.length
