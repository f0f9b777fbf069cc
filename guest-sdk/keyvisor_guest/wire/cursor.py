"""One cursor over received bytes: every short read is the same error, every parse ends in `end()`.

Knows big-endian numbers and reserved fields, and no format.
"""

from __future__ import annotations

from typing import Final

from keyvisor_guest.wire.errors import Malformed, Truncated

__all__ = ["Cursor"]


class Cursor:
    """Reads from `data`, from its start on. Every read raises Truncated where bytes are missing, and then takes none."""

    __slots__ = ("_data", "_offset", "_used_reserved")

    def __init__(self, data: bytes) -> None:
        self._data: Final = data
        self._offset = 0
        self._used_reserved: list[int] = []

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        end = self._offset + length
        if end > len(self._data):
            raise Truncated(f"{length} bytes are needed at {self._offset:#x}, {self.left} are there")
        taken = self._data[self._offset : end]
        self._offset = end
        return taken

    def number(self, length: int) -> int:
        """An unsigned number of `length` bytes, big-endian."""
        return int.from_bytes(self.take(length), "big")

    def reserved(self, length: int) -> None:
        """Pass over a field that must be zero; where it is not, its offset is kept for `used_reserved`."""
        at = self._offset
        if any(self.take(length)):
            self._used_reserved.append(at)

    @property
    def used_reserved(self) -> tuple[int, ...]:
        """The offsets of the reserved fields so far that were not zero."""
        return tuple(self._used_reserved)

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._offset

    def end(self) -> None:
        """Nothing may be left. Raises Malformed."""
        if self.left:
            raise Malformed(f"{self.left} bytes are left over at {self._offset:#x}")
