"""What is measured of donations are donations: each is there when it was taken, and gone when it was given back."""

from __future__ import annotations

from bench.donations import GUESTS, core_pairs
from bench.zone_ranges import Zone

from keyvisor_firmware.config import Limits, StorageLimits
from keyvisor_firmware.storage.query import storage_query

QUERY = storage_query(Limits(), StorageLimits())


def test_each_donation_of_the_core_registers_what_the_query_tells_and_nothing_stays() -> None:
    wanted = {
        **{name: QUERY.guest_base + QUERY.guest_virtual(memory) for name, memory in GUESTS.items()},
        "cpu": QUERY.cpu,
    }
    zone = Zone.with_ranges(0)
    for name, (take, give_back) in core_pairs(zone, QUERY).items():
        handle = take()
        assert zone.table.secure_length == wanted.pop(name)
        give_back(handle)
        assert (zone.table.secure_length, len(zone.table), len(zone.slots)) == (0, 0, 0)
    assert not wanted
