"""Choices out of bytes, so that a fuzzer that knows only bytes can drive what wants calls and arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Source:
    """Takes from the front of `data`. Where nothing is left, every choice is the first and all bytes are 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __bool__(self) -> bool:
        return bool(self._data)

    def take(self, length: int) -> bytes:
        """The next `length` bytes, or as many as there are."""
        taken, self._data = self._data[:length], self._data[length:]
        return taken

    def number(self, below: int) -> int:
        """0 to `below` - 1, `below` at most 256."""
        return (self.take(1) or b"\0")[0] % below

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.number(len(options))]

    def sized(self) -> bytes:
        """Up to 255 bytes."""
        return self.take(self.number(256))
