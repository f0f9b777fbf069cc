"""One cursor over received bytes: every short read is the same error, every parse ends in `end()`."""

from __future__ import annotations

import struct
from typing import Final

from keyvisor_firmware.broker.errors import ProtocolError
from keyvisor_firmware.broker.limits import DEFAULTS, Limits

_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
_NULL: Final = 0xFFFFFFFF


class Cursor:
    """Reads big-endian values from `data`, from `offset` on. Every method raises ProtocolError where bytes are missing."""

    __slots__ = ("_attributes", "_data", "_offset", "limits")

    def __init__(self, data: bytes, offset: int = 0, limits: Limits = DEFAULTS) -> None:
        self.limits = limits
        self._data = data
        self._offset = offset
        self._attributes = 0

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        end = self._offset + length
        if end > len(self._data):
            raise ProtocolError(
                f"{length} bytes are announced and {len(self._data) - self._offset} are there"
            )
        taken = self._data[self._offset : end]
        self._offset = end
        return taken

    def u8(self) -> int:
        """One byte."""
        return self.take(1)[0]

    def u32(self) -> int:
        """Four bytes."""
        value: int = _U32.unpack(self.take(4))[0]
        return value

    def u64(self) -> int:
        """Eight bytes."""
        value: int = _U64.unpack(self.take(8))[0]
        return value

    def sized_bytes(self) -> bytes | None:
        """u32 length, then bytes; None for the length ffffffff."""
        length = self.u32()
        return None if length == _NULL else self.take(length)

    def ulongs(self, most: int) -> tuple[int, ...]:
        """u32 count, then u64 each. More than `most` are refused before they are read."""
        count = self.u32()
        if count > most:
            raise ProtocolError(f"an array has {count} numbers, {most} at most are taken")
        return struct.unpack(f">{count}Q", self.take(8 * count))

    def attribute_count(self) -> int:
        """u32: how many attributes follow. Templates inside of templates count against one limit for all."""
        count = self.u32()
        self._attributes += count
        if self._attributes > self.limits.attributes:
            raise ProtocolError(f"a call has more than {self.limits.attributes} attributes")
        return count

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._offset

    def end(self) -> None:
        """Nothing may be left."""
        if self.left:
            raise ProtocolError(f"{self.left} bytes are left behind the last argument")
