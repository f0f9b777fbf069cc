"""The zone-security table: to whom every page of host-absolute storage belongs (patents, 1.5).

A page in no interval is non-secure: it is the host's. Knows which pages are secure, not what lies in them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Final

from keyvisor_firmware.storage.intervals import Change, GroupedMap, Interval

__all__ = ["FIRMWARE_DOMAIN", "ZoneEntry", "ZoneTable"]

FIRMWARE_DOMAIN: Final = 0


@dataclass(frozen=True, slots=True)
class ZoneEntry:
    """Whose a secure page is.

    `domain` is a guest's handle, or FIRMWARE_DOMAIN. `firmware`: a donation, which the guest itself cannot touch either.
    `virtual` is the address that the page was registered under in the guest's address space; None disables the compare.
    """

    domain: int
    firmware: bool
    virtual: int | None = None

    def ahead(self, distance: int) -> ZoneEntry:
        """The entry `distance` bytes further on."""
        if self.virtual is None:
            return self
        return ZoneEntry(self.domain, self.firmware, self.virtual + distance)


class ZoneTable(GroupedMap[ZoneEntry]):
    """The zone-security table; its groups are the domains."""

    def __init__(self, intervals: Iterable[Interval[ZoneEntry]] = ()) -> None:
        super().__init__(intervals)
        self.secure_length = sum(interval.length for interval in self)  # bytes

    @staticmethod
    def group_of(value: ZoneEntry) -> Hashable:
        return value.domain

    def is_free(self, start: int, end: int) -> bool:
        """Whether every page in `start`..`end` is non-secure."""
        return self.last_overlapping(start, end) is None

    def of_domain(self, domain: int) -> tuple[Interval[ZoneEntry], ...]:
        """All that belongs to `domain`, ascending."""
        return self.in_group(domain)

    def apply(self, change: Change[ZoneEntry]) -> None:
        super().apply(change)
        self.secure_length += sum(interval.length for interval in change.added)
        self.secure_length -= sum(interval.length for interval in change.removed)
