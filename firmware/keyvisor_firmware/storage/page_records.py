"""What the firmware knows of each page of a guest's storage: 32 bytes for every 4 KiB, in the guest's variable area.

    off  len  field
    00   1    state: 0 never imported, 1 secure, 2 exported
    01   7    zero
    08   8    version of the last export, big-endian; 0 before the first
    10   16   tag of that export while the page is exported, else zero

Absent storage is zeros, and so is the record of a page that the guest never had: nothing is written for it. A record
never lies across two pages. Knows no cipher and no storage.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Self

from keyvisor_firmware.errors import RecordBroken
from keyvisor_guest.wire.boot_identity import PAGE_LENGTH

PAGE_RECORD_LENGTH: Final = 32
PAGE_TAG_LENGTH: Final = 16
RECORDS_PER_MIB: Final = (1 << 20) // PAGE_LENGTH

_VERSION_AT: Final = 8
_TAG_AT: Final = 16
_NO_TAG: Final = bytes(PAGE_TAG_LENGTH)


class PageState(enum.IntEnum):
    """Where a page of a guest's storage is; the values are those of the record."""

    NEVER = 0
    SECURE = 1
    EXPORTED = 2


@dataclass(frozen=True, slots=True)
class PageRecord:
    """`version` is that of the last export, 0 before the first; `tag` (16 bytes) is given while the page is exported.

    Raises ValueError for what no page is.
    """

    state: PageState = PageState.NEVER
    version: int = 0
    tag: bytes = _NO_TAG

    def __post_init__(self) -> None:
        exported = self.state is PageState.EXPORTED
        if (
            len(self.tag) != PAGE_TAG_LENGTH
            or (not exported and self.tag != _NO_TAG)
            or (exported and not self.version)
            or (self.state is PageState.NEVER and self.version)
        ):
            raise ValueError("no page has such a record")

    def encode(self) -> bytes:
        """The record's 32 bytes."""
        return self.state.to_bytes(1, "big") + bytes(7) + self.version.to_bytes(8, "big") + self.tag

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The record that `data` was made from. Raises RecordBroken for anything else."""
        if len(data) != PAGE_RECORD_LENGTH or any(data[1:_VERSION_AT]):
            raise RecordBroken(
                f"not the record of a page: {PAGE_RECORD_LENGTH} bytes, some of them zero, are one"
            )
        try:
            version = int.from_bytes(data[_VERSION_AT:_TAG_AT], "big")
            return cls(PageState(data[0]), version, data[_TAG_AT:])
        except ValueError as error:
            raise RecordBroken(f"not the record of a page: {error}") from error


def record_address(records: int, page: int) -> int:
    """Where the record of page number `page` (from 0) of the guest's storage stands; `records` is where the first does."""
    return records + page * PAGE_RECORD_LENGTH
