"""Donations that a real daemon takes and gives back through the host's door, and the same without door, disk and seals.

The core of a donation are its checks, the change of the zone-security table, the plan of its slots, and both applied. All
else is HTTP, a transaction that is on the disk, the audit log, and records that are encoded and sealed.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from bench.firmware import Firmware, configuration
from bench.run import Figures, Run
from bench.zone_ranges import Zone
from keyvisor_firmware.config import StorageLimits
from keyvisor_firmware.storage.address_spaces import AddressSpaces, Frame
from keyvisor_firmware.storage.donations import CpuOffer, GuestOffer, Pieces, Wanted, check_cpu, check_guest
from keyvisor_firmware.storage.frames import Frames
from keyvisor_firmware.storage.host_storage import HostStorage
from keyvisor_firmware.storage.intervals import Interval
from keyvisor_firmware.storage.pages import MIB, PAGE
from keyvisor_guest import Host
from keyvisor_guest.wire.qui import StorageQuery

GUESTS: Final[dict[str, int]] = {
    "guest": 256 * MIB,
    "large guest": 65_536 * MIB,
}  # bytes of storage of their own

_BASE_ALIGNMENT: Final = 16 << 10
_HANDLE: Final = 1 << 40
_ASCE: Final = 5 << 30  # these four: where the core's guest is offered storage
_BASE: Final = 6 << 30
_VARIABLE: Final = 7 << 30
_CPU: Final = 8 << 30

Take = Callable[[], int]  # a handle
GiveBack = Callable[[int], object]


def donations(run: Run, directory: Path) -> Figures:
    """Rounds of what is done per second, through the door and by the core; `init, ms` is done once."""
    run.say("donations through the host's door")
    with Firmware.up(directory, configuration(1)) as firmware:
        query = firmware.host.query_storage()
        begin = time.perf_counter()
        firmware.host.init()
        init = (time.perf_counter() - begin) * 1000
        door = _at_the_door(run, firmware.host, query)
    run.say("donations without a door")
    core: Figures = {}
    for name, (take, give_back) in core_pairs(Zone.with_ranges(0), query).items():
        core |= _pairs(run, name, take, give_back)
    return {"init, ms": init, "door": door, "core": core}


def _pairs(run: Run, name: str, take: Take, give_back: GiveBack) -> Figures:
    rounds = [_round(run.size.seconds, take, give_back) for _ in range(run.size.rounds)]
    return {f"create {name}": [one for one, _ in rounds], f"destroy {name}": [one for _, one in rounds]}


def _round(seconds: float, take: Take, give_back: GiveBack) -> tuple[float, float]:
    """How many are taken, and how many given back, per second of their own."""
    taking = returning = 0.0
    count = 0
    while taking + returning < seconds:
        begin = time.perf_counter()
        handle = take()
        middle = time.perf_counter()
        give_back(handle)
        taking += middle - begin
        returning += time.perf_counter() - middle
        count += 1
    return count / taking, count / returning


# --- through the door


def _at_the_door(run: Run, host: Host, query: StorageQuery) -> Figures:
    """In storage that the host reserved and mapped before, so that only the donations are measured."""
    found: Figures = {}
    guests = {name: _guest_of(host, query, memory) for name, memory in GUESTS.items()}
    for name, create_guest in guests.items():
        found |= _pairs(run, name, create_guest, host.destroy_guest)
    guest, cpu = guests["guest"](), host.memory.allocate("bench", query.cpu)

    def create_cpu() -> int:
        return host.create_cpu(guest, 0, storage=cpu, storage_length=query.cpu)

    found |= _pairs(run, "cpu", create_cpu, host.destroy_cpu)
    return found | {"query": [_asked(run.size.seconds, host.query_storage) for _ in range(run.size.rounds)]}


def _guest_of(host: Host, query: StorageQuery, memory: int) -> Take:
    asce = host.memory.allocate("bench", PAGE)
    base = host.memory.allocate("bench", query.guest_base, _BASE_ALIGNMENT)
    sca = host.memory.allocate("bench", PAGE)
    length = query.guest_virtual(memory)
    host.memory.map(asce, memory, host.memory.allocate("bench", length), length)

    def create() -> int:
        return host.create_guest(
            "bench",
            base=base,
            base_length=query.guest_base,
            virtual=memory,
            virtual_length=length,
            storage_length=memory,
            asce=asce,
            sca=sca,
        )

    return create


def _asked(seconds: float, ask: Callable[[], object]) -> float:
    begin = time.perf_counter()
    for count in itertools.count(1):
        ask()
        if (spent := time.perf_counter() - begin) >= seconds:
            return count / spent
    raise AssertionError("there is always a next number")


# --- the core


def core_pairs(zone: Zone, query: StorageQuery) -> dict[str, tuple[Take, GiveBack]]:
    """What takes each donation into an empty zone, and what gives it back."""

    def taking(pieces: Callable[[], Pieces]) -> Take:
        def take() -> int:
            zone.apply(zone.table.setting(pieces()))
            return _HANDLE

        return take

    def give_back(handle: int) -> None:
        zone.apply(zone.table.clearing([one.span for one in zone.table.of_domain(handle)]))

    checks = {name: _checked_guest(zone, query, memory) for name, memory in GUESTS.items()}
    checks["cpu"] = partial(
        check_cpu,
        CpuOffer(0, _CPU, query.cpu),
        _HANDLE,
        (),
        query.max_cpu_id,
        query.cpu,
        HostStorage(StorageLimits().size, zone.table, AddressSpaces(), Frames()),
    )
    return {name: (taking(check), give_back) for name, check in checks.items()}


def _checked_guest(zone: Zone, query: StorageQuery, memory: int) -> Callable[[], Pieces]:
    length = query.guest_virtual(memory)
    spaces = AddressSpaces({_ASCE: [Interval(memory, memory + length, Frame(_VARIABLE))]})
    storage = HostStorage(StorageLimits().size, zone.table, spaces, Frames())
    offer = GuestOffer(_BASE, query.guest_base, memory, length, 0, memory, _ASCE, PAGE)
    return partial(check_guest, offer, Wanted(query.guest_base, length, query.max_address), _HANDLE, storage)
