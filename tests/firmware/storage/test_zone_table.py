"""The zone-security table: how much is secure, whose, and the same at any length."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.storage.intervals import Interval
from keyvisor_firmware.storage.pages import PAGE, Span
from keyvisor_firmware.storage.zone_table import FIRMWARE_DOMAIN, ZoneEntry, ZoneTable

ENTRIES = st.builds(
    ZoneEntry, st.integers(0, 3), st.booleans(), st.none() | st.integers(0, 8).map(lambda n: n * PAGE)
)
PLACES = st.tuples(st.integers(0, 31), st.integers(1, 8), st.none() | ENTRIES)


@given(st.lists(PLACES, max_size=30))
def test_what_is_secure_is_the_sum_of_its_pages(changes: list[tuple[int, int, ZoneEntry | None]]) -> None:
    table = ZoneTable()
    shadow: dict[int, ZoneEntry] = {}
    for page, pages, entry in changes:
        span = Span(page * PAGE, pages * PAGE)
        covered = range(page, page + pages)
        assert table.is_free(span.start, span.end) is not any(n in shadow for n in covered)
        if entry is None:
            table.apply(table.clearing([span]))
            shadow = {n: owner for n, owner in shadow.items() if n not in covered}
        else:
            table.apply(table.setting([Interval(span.start, span.end, entry)]))
            shadow |= {n: entry.ahead((n - page) * PAGE) for n in covered}
        assert table.secure_length == len(shadow) * PAGE
        for domain in range(4):
            pages_of = sum(interval.length for interval in table.of_domain(domain)) // PAGE
            assert pages_of == sum(owner.domain == domain for owner in shadow.values())


def test_neighbours_of_two_owners_stay_apart() -> None:
    table = ZoneTable()
    for place, entry in enumerate(
        [
            ZoneEntry(FIRMWARE_DOMAIN, True),
            ZoneEntry(7, True),
            ZoneEntry(8, True),
            ZoneEntry(8, False, 3 * PAGE),
            ZoneEntry(8, False, 5 * PAGE),
            ZoneEntry(8, True, 6 * PAGE),
        ]
    ):
        table.apply(table.setting([Interval(place * PAGE, (place + 1) * PAGE, entry)]))
        assert len(table) == place + 1


def test_a_large_donation_is_one_interval_and_so_is_its_neighbour_of_the_same_owner() -> None:
    table = ZoneTable()
    table.apply(table.setting([Interval(0, 64 << 30, ZoneEntry(7, True))]))
    table.apply(table.setting([Interval(64 << 30, (64 << 30) + PAGE, ZoneEntry(7, True))]))
    assert len(table) == 1
    table.apply(table.clearing([Span(64 << 30, PAGE)]))
    assert list(table) == [Interval(0, 64 << 30, ZoneEntry(7, True))]
