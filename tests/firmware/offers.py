"""What a host offers the firmware, of its own storage: nothing is wrong with it until a test changes it."""

from __future__ import annotations

from keyvisor_firmware.storage.donations import GuestOffer
from keyvisor_firmware.storage.pages import LOWCORE, PAGE

from .machine import MEMORY, Machine


def another_offer(machine: Machine) -> GuestOffer:
    """What a host offers for a guest, with nothing wrong with it."""
    host, needed = machine.host, machine.host.query_storage()
    asce, sca = (host.memory.allocate("another", PAGE, PAGE, LOWCORE) for _ in range(2))
    base = host.memory.allocate("another", needed.guest_base, 4 * PAGE, LOWCORE)
    length = needed.guest_virtual(MEMORY)
    variable = host.memory.allocate("another", length, PAGE, LOWCORE)
    host.memory.map(asce, MEMORY, variable, length)
    return GuestOffer(
        base=base,
        base_length=needed.guest_base,
        virtual=MEMORY,
        virtual_length=length,
        storage_origin=0,
        storage_length=MEMORY,
        asce=asce,
        sca=sca,
    )
