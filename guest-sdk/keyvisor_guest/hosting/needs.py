"""What storage a guest needs that is only planned, by what the firmware's query says. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from keyvisor_guest.errors import SdkError
from keyvisor_guest.hosting.memory import PAGE
from keyvisor_guest.wire.qui import StorageQuery
from keyvisor_guest.wire.storage_messages import Ledger

__all__ = ["MIB", "Needs", "missing", "needs", "require_size"]

MIB: Final = 1 << 20
_TABLES: Final = 2 * PAGE  # the address space's own page, and the SCA


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes. `zone` is needed once, by the firmware; all else by the guest: what it is given, and its own storage."""

    zone: int
    base: int
    variable: int
    cpus: int
    storage: int
    tables: int

    @property
    def total(self) -> int:
        """All that one more guest needs."""
        return self.base + self.variable + self.cpus + self.storage + self.tables


def needs(query: StorageQuery, memory: int, cpus: int) -> Needs:
    """What a guest with `memory` bytes and so many CPUs needs. Raises SdkError for a guest that cannot be."""
    require_size(query, memory, cpus)
    return Needs(
        zone=query.zone_base,
        base=query.guest_base,
        variable=query.guest_virtual(memory),
        cpus=cpus * query.cpu,
        storage=memory,
        tables=_TABLES,
    )


def require_size(query: StorageQuery, memory: int, cpus: int) -> None:
    """Raises SdkError for a guest that this machine cannot have, however much is free."""
    if memory <= 0 or memory % MIB:
        raise SdkError(f"a guest of {memory} bytes cannot be: give whole MiB, as in `256M`")
    if memory > query.max_address:
        raise SdkError(f"a guest has at most {query.max_address >> 40} TiB of storage: plan a smaller one")
    if not 1 <= cpus <= query.max_cpu_id + 1:
        raise SdkError(f"a guest of {cpus} CPUs cannot be: give 1 to {query.max_cpu_id + 1}")


def missing(needed: Needs, ledger: Ledger) -> int:
    """How many bytes more would have to be free for it; 0 where it fits."""
    wanted = needed.total + (0 if ledger.initialised else needed.zone)
    return max(wanted - ledger.free, 0)
