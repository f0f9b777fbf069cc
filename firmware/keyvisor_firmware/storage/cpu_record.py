"""What the firmware knows of one CPU of a guest, as bytes: the content of the CPU's area.

Nothing in it is secret; it is sealed like every area, so that the host cannot change it. 32 bytes, numbers big-endian:
"kv   cpu" ‖ u32 version 1 ‖ u16 zero ‖ u16 CPU number ‖ u64 the guest's handle ‖ u64 the CPU's handle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from keyvisor_firmware.errors import RecordBroken
from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import Malformed

CPU_RECORD_LENGTH: Final = 32

_MAGIC: Final = b"kv   cpu"
_HEAD: Final = _MAGIC + (1).to_bytes(4, "big") + bytes(2)


@dataclass(frozen=True, slots=True)
class CpuRecord:
    """Which CPU this is (0 to 65535), and of which guest."""

    guest: int
    number: int
    handle: int

    def encode(self) -> bytes:
        """The record's 32 bytes."""
        numbers = ((self.number, 2), (self.guest, 8), (self.handle, 8))
        return _HEAD + b"".join(number.to_bytes(length, "big") for number, length in numbers)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The record that `data` was made from. Raises RecordBroken for anything else."""
        try:
            return cls._read(Cursor(data))
        except Malformed as error:
            raise RecordBroken(f"not the record of a CPU: {error}") from error

    @classmethod
    def _read(cls, cursor: Cursor) -> Self:
        if cursor.take(len(_HEAD)) != _HEAD:
            raise Malformed("it does not begin like one")
        number, guest, handle = cursor.number(2), cursor.number(8), cursor.number(8)
        cursor.end()
        return cls(guest, number, handle)
