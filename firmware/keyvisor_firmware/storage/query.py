"""What the storage query tells: the amounts, and the limits and features of this firmware (formats, D.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from keyvisor_firmware.config import Limits, StorageLimits
from keyvisor_firmware.storage.amounts import amounts
from keyvisor_guest.wire.arcb import ATTESTATION_FLAGS
from keyvisor_guest.wire.asrcb_layout import FLAG_BITS
from keyvisor_guest.wire.qui import StorageQuery, UvCommand
from keyvisor_guest.wire.se_header import Pcf
from keyvisor_guest.wire.secret_kinds import KINDS

MAX_ADDRESS: Final = 0x800000000000  # where a guest's storage ends at the latest: what machines have
_FEATURES: Final = (4,)  # guests have AP instructions
_VERSION_1: Final = 1 << 63  # bit 0


def storage_query(limits: Limits, storage: StorageLimits) -> StorageQuery:
    """The same answer for as long as the limits are: nothing in it depends on what is in use."""
    needed = amounts(limits, storage)
    return StorageQuery(
        zone_base=needed.zone_base,
        guest_base=needed.guest_base,
        guest_base_virtual=needed.guest_virtual,
        guest_per_mib=needed.guest_per_mib,
        cpu=needed.cpu,
        max_guests=limits.guests,
        max_address=MAX_ADDRESS,
        max_cpu_id=storage.max_cpus - 1,
        features=_bits(_FEATURES),
        calls=frozenset(UvCommand),
        header_versions=_VERSION_1,
        control_flags=sum(Pcf),
        attestation_versions=_VERSION_1,
        attestation_flags=ATTESTATION_FLAGS,
        add_secret_versions=_VERSION_1,
        add_secret_flags=sum(FLAG_BITS.values()),
        secret_types=_bits(KINDS),
        max_association_secrets=limits.association_secrets,
        max_retrievable_secrets=limits.retrievable_secrets,
    )


def _bits(numbers: Iterable[int]) -> int:
    """64 bits of which bit 0 is the highest."""
    return sum(1 << (63 - number) for number in numbers)
