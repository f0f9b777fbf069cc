"""What the zone-security table costs at so many ranges: memory, a lookup, and a donation of 4 KiB and of 64 GiB.

A donation is what the firmware does for one in memory, without a door, a database or a seal: the check, the change of
the table, the plan of its slots, and both applied. Half of the ranges lie below it and half above.
"""

from __future__ import annotations

import random
import statistics
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bench.run import Figures
from keyvisor_firmware.storage.intervals import Change, Interval
from keyvisor_firmware.storage.pages import PAGE, Span
from keyvisor_firmware.storage.zone_area import RangeSlots
from keyvisor_firmware.storage.zone_table import ZoneEntry, ZoneTable

DONATIONS: Final[dict[str, int]] = {"4 KiB": PAGE, "64 GiB": 64 << 30}  # bytes

_LOWEST: Final = 4 << 30
_FREE: Final = 128 << 30  # where nothing is secure, in the middle of the ranges
_HIGHER: Final = 512 << 30
_APART: Final = 2 * PAGE  # from one range to the next, so that they do not become one
_SLOTS: Final = 131_072
_DOMAINS: Final = 1000
_NEW_DOMAIN: Final = 1 << 40
_BATCHES: Final = 100  # of lookups: what interrupts one of them does not count
_BATCH: Final = 100
_MICROSECONDS: Final = 1e6


@dataclass(frozen=True, slots=True)
class Zone:
    """The table and its slots, as the firmware has both in memory."""

    table: ZoneTable
    slots: RangeSlots

    @classmethod
    def with_ranges(cls, count: int) -> Zone:
        """Separate ranges of one page each, of many domains, half of them above a wide part where nothing is secure."""
        zone = cls(ZoneTable(), RangeSlots(_SLOTS))
        zone.apply(zone.table.setting(list(_ranges(count))))
        return zone

    def apply(self, change: Change[ZoneEntry]) -> None:
        """As the firmware does it: the slots are planned first, since there may be too few."""
        plan = self.slots.plan(change)
        self.slots.apply(plan)
        self.table.apply(change)

    def donate(self, span: Span) -> None:
        """Pages become secure, if all of them are the host's."""
        if not self.table.is_free(span.start, span.end):
            raise ValueError("it is secure already")
        self.apply(self.table.setting([Interval(span.start, span.end, ZoneEntry(_NEW_DOMAIN, True))]))

    def give_back(self, span: Span) -> None:
        """Pages are the host's again."""
        self.apply(self.table.clearing([span]))


def _ranges(count: int) -> Iterator[Interval[ZoneEntry]]:
    for number in range(count):
        start = (_LOWEST if number % 2 else _HIGHER) + number * _APART
        yield Interval(start, start + PAGE, ZoneEntry(1 + number % _DOMAINS, True))


def zone_ranges(count: int, rounds: int, donations: int) -> Figures:
    """Bytes of memory; microseconds of a lookup and of each donation, a median of many of them per round."""
    tracemalloc.start()
    zone = Zone.with_ranges(count)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    found: Figures = {"bytes": taken, "lookup": [_lookup(zone) for _ in range(rounds)]}
    for name, length in DONATIONS.items():
        span = Span(_FREE, length)
        found[name] = [_donation(zone, span, donations) for _ in range(rounds)]
    return found


def _lookup(zone: Zone) -> float:
    starts = [interval.start for interval in zone.table]
    times = []
    for _ in range(_BATCHES):
        addresses = random.choices(starts, k=_BATCH)  # noqa: S311 - which ones it is does not matter
        begin = time.perf_counter()
        for address in addresses:
            zone.table.at(address)
        times.append(time.perf_counter() - begin)
    return statistics.median(times) / _BATCH * _MICROSECONDS


def _donation(zone: Zone, span: Span, count: int) -> float:
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        zone.donate(span)
        times.append(time.perf_counter() - begin)
        zone.give_back(span)
    return statistics.median(times) * _MICROSECONDS
