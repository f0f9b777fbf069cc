"""What is measured of the zone-security table is a table of so many ranges, and donations that register their pages."""

from __future__ import annotations

import pytest
from bench.zone_ranges import DONATIONS, Zone, zone_ranges

from keyvisor_firmware.storage.pages import Span

_FREE = 128 << 30


@pytest.mark.parametrize("count", [0, 10, 1000])
def test_a_table_has_as_many_ranges_as_are_asked_for(count: int) -> None:
    zone = Zone.with_ranges(count)
    assert len(zone.table) == len(zone.slots) == count


@pytest.mark.parametrize("length", DONATIONS.values(), ids=DONATIONS)
def test_a_donation_is_one_range_more_and_goes_again(length: int) -> None:
    zone = Zone.with_ranges(10)
    before = list(zone.table)
    zone.donate(Span(_FREE, length))
    assert len(zone.table) == len(zone.slots) == 11
    assert zone.table.secure_length == 10 * 4096 + length
    with pytest.raises(ValueError, match="secure already"):
        zone.donate(Span(_FREE, length))
    zone.give_back(Span(_FREE, length))
    assert list(zone.table) == before
    assert len(zone.slots) == 10


def test_there_are_as_many_ranges_above_a_donation_as_below() -> None:
    starts = [interval.start for interval in Zone.with_ranges(1000).table]
    assert sum(start < _FREE for start in starts) == 500


def test_all_of_it_is_measured() -> None:
    few, many = zone_ranges(10, 2, 3), zone_ranges(100, 2, 3)
    assert 5 < many["bytes"] / few["bytes"] < 15
    for name in ("lookup", *DONATIONS):
        assert len(few[name]) == 2
        assert min(few[name]) > 0
