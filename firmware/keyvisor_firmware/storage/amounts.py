"""How much storage each thing needs: what the query reports, and what a donation must be, to the byte.

Each amount is the room for the longest of what the firmware stores there, for the limits of the configuration. Nothing
here depends on what is in use, so that an amount once told stays true.

    zone base             the header, a slot for every guest and a slot for every range (zone_area), up to whole MiB
    guest base, absolute  the sealed record of a guest with everything that a guest can have, up to 16 KiB
    guest base, virtual   the sealed secret store with as many secrets and requests as it takes, each as long as there
                          are, up to whole pages; and behind it page records for one MiB: a guest is charged for its
                          whole MiB only (formats, D.3), and the rest of its storage, less than one, has these
    per MiB of a guest    a record for each of its 256 pages
    CPU                   the sealed record of a CPU, one page
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from keyvisor_firmware.config import Limits, StorageLimits
from keyvisor_firmware.secrets.state_encoding import longest_state
from keyvisor_firmware.secrets.store import DEFAULT_MAX_REQUESTS
from keyvisor_firmware.storage.areas import area_length
from keyvisor_firmware.storage.cpu_record import CPU_RECORD_LENGTH
from keyvisor_firmware.storage.guest_record import longest_record
from keyvisor_firmware.storage.page_records import PAGE_RECORD_LENGTH, RECORDS_PER_MIB
from keyvisor_firmware.storage.pages import MIB, whole_pages
from keyvisor_firmware.storage.zone_area import zone_length

GUEST_BASE_ALIGNMENT: Final = 16 << 10


@dataclass(frozen=True, slots=True)
class Amounts:
    """All in bytes; `guest_virtual` once for each guest, `guest_per_mib` for each whole MiB of its storage."""

    zone_base: int
    guest_base: int
    guest_virtual: int
    guest_per_mib: int
    cpu: int

    @property
    def secret_store(self) -> int:
        """How much of a variable area the secret store has, from its start; the page records follow."""
        return self.guest_virtual - self.guest_per_mib

    def variable(self, storage_length: int) -> int:
        """The whole variable area of a guest with so much storage: the query's arithmetic (formats, D.3)."""
        return self.guest_virtual + whole_pages(storage_length // MIB * self.guest_per_mib)


def amounts(limits: Limits, storage: StorageLimits) -> Amounts:
    """What the firmware needs under these limits."""
    store = longest_state(limits.association_secrets, limits.retrievable_secrets, DEFAULT_MAX_REQUESTS)
    per_mib = RECORDS_PER_MIB * PAGE_RECORD_LENGTH
    return Amounts(
        zone_base=_up_to(MIB, zone_length(limits.guests, storage.ranges)),
        guest_base=_up_to(GUEST_BASE_ALIGNMENT, area_length(longest_record(storage.max_cpus))),
        guest_virtual=area_length(store) + whole_pages(per_mib),
        guest_per_mib=per_mib,
        cpu=area_length(CPU_RECORD_LENGTH),
    )


def _up_to(unit: int, length: int) -> int:
    return -(-length // unit) * unit
