"""Who may touch which storage, against a model that looks at each page on its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.errors import AccessRefused, StorageRefused
from keyvisor_firmware.storage.address_spaces import AddressSpaces
from keyvisor_firmware.storage.frames import Frames
from keyvisor_firmware.storage.host_storage import HostStorage, require_within
from keyvisor_firmware.storage.intervals import Interval
from keyvisor_firmware.storage.pages import LOWCORE, PAGE, Span
from keyvisor_firmware.storage.return_codes import StorageCode
from keyvisor_firmware.storage.zone_table import FIRMWARE_DOMAIN, ZoneEntry, ZoneTable

SIZE = 32 * PAGE
ASCE, OTHER_ASCE = 0x4000, 0x5000
WEB, DB = 7, 8


def a_storage() -> HostStorage:
    return HostStorage(SIZE, ZoneTable(), AddressSpaces(), Frames())


def secure(storage: HostStorage, page: int, pages: int, entry: ZoneEntry) -> None:
    interval = Interval(page * PAGE, (page + pages) * PAGE, entry)
    storage.zone.apply(storage.zone.setting([interval]))


def mapped(storage: HostStorage, asce: int, virtual: int, page: int, pages: int) -> None:
    change = storage.spaces.mapping(asce, virtual * PAGE, Span(page * PAGE, pages * PAGE))
    storage.spaces.apply(asce, change)


def web_storage() -> HostStorage:
    """Guest WEB has pages 8 and 9 at virtual 0, and page 20 at virtual 2; its variable area, page 12, is at virtual 5."""
    storage = a_storage()
    for virtual, page, pages, firmware in ((0, 8, 2, False), (2, 20, 1, False), (5, 12, 1, True)):
        mapped(storage, ASCE, virtual, page, pages)
        secure(storage, page, pages, ZoneEntry(WEB, firmware, virtual * PAGE))
    return storage


def refused_access(ask: Callable[[], object]) -> tuple[int, int]:
    with pytest.raises(AccessRefused) as refused:
        ask()
    return int(refused.value.code), refused.value.address


def test_a_guest_reaches_its_own_pages_at_any_alignment() -> None:
    storage = web_storage()
    assert storage.guest_pages(ASCE, WEB, 0, 3 * PAGE) == (Span(8 * PAGE, 2 * PAGE), Span(20 * PAGE, PAGE))
    assert storage.guest_pages(ASCE, WEB, PAGE + 5, PAGE) == (
        Span(9 * PAGE + 5, PAGE - 5),
        Span(20 * PAGE, 5),
    )
    assert storage.guest_pages(ASCE, WEB, 7, 0) == ()


def test_part1_T7_the_host_touches_nothing_secure() -> None:
    storage = web_storage()
    secure(storage, 30, 1, ZoneEntry(FIRMWARE_DOMAIN, True))
    for page in (8, 9, 20, 12, 30):
        assert refused_access(lambda at=page: storage.require_host_access(Span(at * PAGE, 1))) == (
            0x3D,
            page * PAGE,
        )
        assert refused_access(lambda at=page: storage.require_host_access(Span(at * PAGE - 1, 2)))[0] == 0x3D
        last = (page + 1) * PAGE - 1
        assert refused_access(lambda at=last: storage.require_host_access(Span(at, 2))) == (0x3D, last)
    storage.require_host_access(Span(10 * PAGE, 2 * PAGE))
    storage.require_host_access(Span(8 * PAGE, 0))


def test_nobody_touches_what_is_not_there() -> None:
    storage = a_storage()
    storage.require_host_access(Span(0, SIZE))
    assert refused_access(lambda: storage.require_host_access(Span(0, SIZE + 1))) == (0x05, SIZE)
    assert refused_access(lambda: storage.require_host_access(Span(SIZE, 1))) == (0x05, SIZE)
    assert refused_access(lambda: storage.require_host_access(Span(1 << 52, 1 << 52))) == (0x05, 1 << 52)
    assert refused_access(lambda: require_within(Span(PAGE, 1), Span(2 * PAGE, PAGE))) == (0x05, PAGE)
    assert refused_access(lambda: require_within(Span(2 * PAGE, PAGE + 1), Span(2 * PAGE, PAGE))) == (
        0x05,
        3 * PAGE,
    )
    require_within(Span(2 * PAGE, PAGE), Span(2 * PAGE, PAGE))
    require_within(Span(99 * PAGE, 0), Span(2 * PAGE, PAGE))


def test_part1_T8_a_guest_reaches_no_page_of_another_guest_however_the_host_maps_it() -> None:
    storage = web_storage()
    secure(storage, 24, 1, ZoneEntry(DB, False, 0))
    mapped(storage, OTHER_ASCE, 0, 24, 1)
    assert storage.guest_pages(OTHER_ASCE, DB, 0, PAGE)
    mapped(storage, OTHER_ASCE, 0, 8, 1)
    assert refused_access(lambda: storage.guest_pages(OTHER_ASCE, DB, 5, 1)) == (0x3F, 5)
    assert refused_access(lambda: storage.guest_pages(ASCE, DB, 0, 1)) == (0x3F, 0)


def test_a_guest_reaches_neither_its_own_donations_nor_the_zones() -> None:
    storage = web_storage()
    secure(storage, 30, 1, ZoneEntry(FIRMWARE_DOMAIN, True))
    secure(storage, 29, 1, ZoneEntry(WEB, True))
    mapped(storage, ASCE, 6, 29, 2)
    for virtual in (5, 6, 7):
        at = virtual * PAGE
        assert refused_access(lambda at=at: storage.guest_pages(ASCE, WEB, at, 1)) == (0x3F, at)


def test_part1_T9_two_pages_of_the_guest_that_the_host_exchanges_are_refused() -> None:
    storage = web_storage()
    mapped(storage, ASCE, 1, 20, 1)
    mapped(storage, ASCE, 2, 9, 1)
    assert storage.guest_pages(ASCE, WEB, 0, PAGE)
    assert refused_access(lambda: storage.guest_pages(ASCE, WEB, 0, 3 * PAGE)) == (0x3F, PAGE)


def test_a_page_that_is_not_secure_or_not_mapped_has_to_be_imported() -> None:
    storage = web_storage()
    assert refused_access(lambda: storage.guest_pages(ASCE, WEB, 2 * PAGE, PAGE + 1)) == (0x3E, 3 * PAGE)
    mapped(storage, ASCE, 3, 25, 1)
    assert refused_access(lambda: storage.guest_pages(ASCE, WEB, 2 * PAGE, PAGE + 1)) == (0x3E, 3 * PAGE)
    assert refused_access(lambda: storage.guest_pages(ASCE, WEB, 1 << 51, 1 << 51)) == (0x3E, 1 << 51)


VIRTUAL, ABSOLUTE, COUNT = st.integers(0, 7), st.integers(0, 15), st.integers(1, 4)
DOMAINS = st.sampled_from([WEB, DB])


@given(
    st.lists(st.tuples(VIRTUAL, ABSOLUTE, COUNT), max_size=8),
    st.lists(st.tuples(ABSOLUTE, COUNT, DOMAINS, st.booleans(), st.none() | VIRTUAL), max_size=8),
    st.integers(0, 8 * PAGE),
    st.integers(1, 4 * PAGE),
    st.booleans(),
)
def test_what_is_asked_by_ranges_is_what_each_page_would_answer(
    maps: list[tuple[int, int, int]],
    owners: list[tuple[int, int, int, bool, int | None]],
    start: int,
    length: int,
    adopted: bool,
) -> None:
    storage = a_storage()
    frames: dict[int, int] = {}
    zone: dict[int, ZoneEntry] = {}
    for virtual, page, pages in maps:
        mapped(storage, ASCE, virtual, page, pages)
        frames |= {virtual + n: page + n for n in range(pages)}
    for page, pages, domain, firmware, at in owners:
        entry = ZoneEntry(domain, firmware, None if at is None else at * PAGE)
        secure(storage, page, pages, entry)
        zone |= {page + n: entry.ahead(n * PAGE) for n in range(pages)}
    if adopted:  # most of what is mapped is as it should be, so that answers other than refusals are seen too
        for virtual, page in frames.items():
            entry = ZoneEntry(WEB, False, virtual * PAGE)
            secure(storage, page, 1, entry)
            zone[page] = entry
    expected: int | None = None
    for virtual in range(start // PAGE, (start + length - 1) // PAGE + 1):
        owner = zone.get(frames.get(virtual, -1))
        if owner is None:
            expected = 0x3E
        elif owner != ZoneEntry(WEB, False, virtual * PAGE):
            expected = 0x3F
        if expected:
            assert refused_access(lambda: storage.guest_pages(ASCE, WEB, start, length)) == (
                expected,
                max(start, virtual * PAGE),
            )
            break
    whole = Span(start // PAGE * PAGE, (start % PAGE + length + PAGE - 1) // PAGE * PAGE)
    if expected:
        with pytest.raises(StorageRefused) as refused:
            storage.require_unchanged(ASCE, WEB, whole, False)
        assert refused.value.why is StorageCode.MAPPING_CHANGED
        return
    spans = storage.guest_pages(ASCE, WEB, start, length)
    assert sum(span.length for span in spans) == length
    assert spans == storage.spaces.translate(ASCE, start, length)
    assert storage.require_unchanged(ASCE, WEB, whole, False) == storage.spaces.translate(
        ASCE, whole.start, whole.length
    )


CHANGES: dict[str, Callable[[HostStorage], None]] = {
    "unmapped": lambda s: s.spaces.apply(ASCE, s.spaces.unmapping(ASCE, Span(6 * PAGE, PAGE))),
    "a page of the host's": lambda s: mapped(s, ASCE, 6, 25, 1),
    "exchanged": lambda s: (mapped(s, ASCE, 6, 15, 1), mapped(s, ASCE, 7, 14, 1))[0],
    "the guest's memory": lambda s: mapped(s, ASCE, 6, 8, 1),
    "another guest's": lambda s: (mapped(s, ASCE, 6, 24, 1), secure(s, 24, 1, ZoneEntry(DB, True, 6 * PAGE)))[
        0
    ],
    "all forgotten": lambda s: s.spaces.apply(ASCE, s.spaces.unmapping(ASCE, Span(0, 1 << 40))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_part1_T9_a_changed_mapping_of_a_donation_is_refused_and_accepted_when_it_is_back(
    change: Callable[[HostStorage], None],
) -> None:
    storage = web_storage()
    area = Span(5 * PAGE, 3 * PAGE)
    mapped(storage, ASCE, 6, 14, 2)
    secure(storage, 14, 2, ZoneEntry(WEB, True, 6 * PAGE))
    pages = (Span(12 * PAGE, PAGE), Span(14 * PAGE, 2 * PAGE))
    assert storage.require_unchanged(ASCE, WEB, area, True) == pages
    change(storage)
    with pytest.raises(StorageRefused, match=r"from virtual address 0x[56]000 on") as refused:
        storage.require_unchanged(ASCE, WEB, area, True)
    assert refused.value.why is StorageCode.MAPPING_CHANGED
    mapped(storage, ASCE, 5, 12, 1)
    mapped(storage, ASCE, 6, 14, 2)
    assert storage.require_unchanged(ASCE, WEB, area, True) == pages


@pytest.mark.parametrize(
    ("virtual", "pages", "code"),
    [
        (0, 1, StorageCode.SECURE_ALREADY),
        (5, 1, StorageCode.SECURE_ALREADY),
        (8, 3, StorageCode.NOT_TRANSLATED),
        (7, 2, StorageCode.NOT_TRANSLATED),
        (12, 1, StorageCode.ADDRESS_UNUSABLE),  # lowcore
        (13, 1, StorageCode.ADDRESS_UNUSABLE),  # outside
        (14, 2, StorageCode.ADDRESS_UNUSABLE),  # the same page twice
    ],
)
def test_only_pages_of_the_hosts_are_importable(virtual: int, pages: int, code: StorageCode) -> None:
    storage = web_storage()
    for at, page, count in ((8, 25, 2), (12, LOWCORE // PAGE - 1, 1), (13, 32, 1), (14, 28, 1), (15, 28, 1)):
        mapped(storage, ASCE, at, page, count)
    assert storage.importable(ASCE, 8 * PAGE, 2 * PAGE) == (Span(25 * PAGE, 2 * PAGE),)
    assert storage.importable(ASCE, 14 * PAGE, PAGE) == (Span(28 * PAGE, PAGE),)
    with pytest.raises(StorageRefused) as refused:
        storage.importable(ASCE, virtual * PAGE, pages * PAGE)
    assert refused.value.why is code
