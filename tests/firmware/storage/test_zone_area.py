"""The zone base: its layout by hand, and its range slots against a plain set."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keyvisor_firmware.errors import RecordBroken, StorageRefused
from keyvisor_firmware.storage.intervals import Change, Interval
from keyvisor_firmware.storage.lifecycle import GuestState
from keyvisor_firmware.storage.pages import PAGE, Span
from keyvisor_firmware.storage.return_codes import StorageCode
from keyvisor_firmware.storage.zone_area import (
    GUEST_SLOT,
    RANGE_SLOT,
    GuestSlot,
    RangeSlots,
    SlotPlan,
    ZoneHeader,
    decode_range,
    encode_range,
    guest_slot_offset,
    pages_of,
    ranges_offset,
    rewritten,
    zone_length,
)
from keyvisor_firmware.storage.zone_table import FIRMWARE_DOMAIN, ZoneEntry

Range = Interval[ZoneEntry]
SLOT = GuestSlot(
    handle=0x0102,
    state=GuestState.RUNNING,
    base=Span(0x80000000, 0x8000),
    variable=Span(0x10000000, 0x43000),
    asce=0x5000,
    sca=0x6000,
    storage=Span(0, 0x10000000),
)
RANGE = Interval(0x7000, 0xA000, ZoneEntry(0x0102, True, 0x3000))


# --- layout


def test_the_places_in_the_zone_base() -> None:
    assert [guest_slot_offset(slot) for slot in (0, 1, 31, 32)] == [0x1000, 0x1080, 0x1F80, 0x2000]
    assert [ranges_offset(guests) for guests in (1, 32, 33, 64)] == [0x2000, 0x2000, 0x3000, 0x3000]
    assert zone_length(64, 128) == 0x4000
    assert zone_length(64, 129) == 0x5000


def test_the_header_by_hand() -> None:
    page = b"kv zone\x00" + bytes.fromhex("00000001 00000040 00020000") + bytes(PAGE - 20)
    assert ZoneHeader(64, 0x20000).encode() == page
    assert ZoneHeader.decode(page) == ZoneHeader(64, 0x20000)
    for broken in (
        bytes(PAGE),
        page[:-1],
        page + b"\x00",
        b"K" + page[1:],
        page[:11] + b"\x02" + page[12:],
        b"",
    ):
        with pytest.raises(RecordBroken):
            ZoneHeader.decode(broken)


def test_a_guest_slot_by_hand() -> None:
    data = bytes.fromhex(
        "0000000000000102 04 00000000000000"
        "0000000080000000 0000000000008000"
        "0000000010000000 0000000000043000"
        "0000000000005000 0000000000006000"
        "0000000000000000 0000000010000000"
    ) + bytes(48)
    assert SLOT.encode() == data
    assert GuestSlot.decode(data) == SLOT
    assert GuestSlot.decode(bytes(GUEST_SLOT)) is None


@pytest.mark.parametrize(("at", "value"), [(7, 0), (8, 5), (9, 1), (0x50, 1), (0x7F, 1)])
def test_a_broken_guest_slot_is_refused(at: int, value: int) -> None:
    data = bytearray(SLOT.encode())
    data[6:8] = bytes((0, data[7]))
    data[at] = value
    with pytest.raises(RecordBroken):
        GuestSlot.decode(bytes(data))


@pytest.mark.parametrize("length", [0, 127, 129])
def test_a_guest_slot_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(RecordBroken):
        GuestSlot.decode((SLOT.encode() + b"\x00")[:length])


@pytest.mark.parametrize(
    ("interval", "data"),
    [
        (RANGE, "0000000000007003 0000000000003000 0000000000000102 0000000000003000"),
        (
            Interval(0, PAGE, ZoneEntry(FIRMWARE_DOMAIN, True)),
            "0000000000000007 0000000000001000 0000000000000000 0000000000000000",
        ),
        (
            Interval(0, PAGE, ZoneEntry(2**48 - 1, False, 0)),
            "0000000000000001 0000000000001000 0000ffffffffffff 0000000000000000",
        ),
    ],
)
def test_a_range_slot_by_hand(interval: Range, data: str) -> None:
    assert encode_range(interval) == bytes.fromhex(data)
    assert decode_range(bytes.fromhex(data)) == interval


@pytest.mark.parametrize(
    "data",
    [
        "0000000000007002 0000000000003000 0000000000000102 0000000000003000",  # not secure
        "0000000000007009 0000000000003000 0000000000000102 0000000000003000",  # unknown flag
        "0000000000007003 0000000000000000 0000000000000102 0000000000003000",  # nothing
        "0000000000007003 0000000000003001 0000000000000102 0000000000003000",  # not whole
        "0000000000007003 0000000000003000 0000000000000102 0000000000003001",
        "0000000000007005 0000000000003000 0000000000000102 0000000000003000",  # an address without compare
        "0000000000007003 0000000000003000 0000000000000102",
    ],
)
def test_a_broken_range_slot_is_refused(data: str) -> None:
    with pytest.raises(RecordBroken):
        decode_range(bytes.fromhex(data))


@given(st.binary(min_size=RANGE_SLOT, max_size=RANGE_SLOT))
def test_a_range_has_one_encoding(data: bytes) -> None:
    try:
        interval = decode_range(data)
    except RecordBroken:
        return
    assert interval is None or encode_range(interval) == data


# --- which slot holds which range


def range_at(page: int, pages: int = 1, domain: int = 1) -> Range:
    return Interval(page * PAGE, (page + pages) * PAGE, ZoneEntry(domain, False, None))


def put(slots: RangeSlots, *added: Range, removed: tuple[Range, ...] = ()) -> SlotPlan:
    plan = slots.plan(Change(removed, added))
    slots.apply(plan)
    return plan


def test_a_change_touches_the_slots_of_its_own_ranges_only() -> None:
    slots = RangeSlots(1000)
    put(slots, *(range_at(page) for page in range(0, 900, 2)))
    plan = put(slots, range_at(100, 3), removed=(range_at(100), range_at(102)))
    assert plan.contents == {50: encode_range(range_at(100, 3)), 51: bytes(RANGE_SLOT)}
    assert pages_of(plan.contents) == (0,)
    assert put(slots, range_at(2001)).contents.keys() == {51}
    assert put(slots, range_at(2003)).contents.keys() == {450}
    assert pages_of((127, 128, 450)) == (0, PAGE, 3 * PAGE)


def test_one_range_too_many_is_refused_and_nothing_is_done() -> None:
    slots = RangeSlots(2)
    put(slots, range_at(0), range_at(2))
    with pytest.raises(StorageRefused, match="2 ranges") as refused:
        slots.plan(Change(added=(range_at(4),)))
    assert refused.value.why is StorageCode.RANGES_EXHAUSTED
    assert len(slots) == 2
    put(slots, range_at(4), removed=(range_at(0),))
    with pytest.raises(StorageRefused):
        slots.plan(Change((range_at(4),), (range_at(6), range_at(8))))


def test_a_change_of_another_table_is_refused() -> None:
    slots = RangeSlots(8)
    put(slots, range_at(0))
    for change in (Change((range_at(2),), ()), Change((), (range_at(0, 2),))):
        with pytest.raises(ValueError, match="not those of the table"):
            slots.plan(change)


def test_a_plan_is_good_for_what_it_was_made_for_only() -> None:
    slots = RangeSlots(8)
    put(slots, range_at(0))
    plans = [slots.plan(Change((), (range_at(2),))), slots.plan(Change((range_at(0),), ()))]
    put(slots, range_at(4), removed=(range_at(0),))
    put(slots, range_at(6))
    for plan in plans:
        with pytest.raises(ValueError, match="when this was planned"):
            slots.apply(plan)
    assert len(slots) == 2


def test_a_range_in_two_slots_is_refused() -> None:
    with pytest.raises(RecordBroken, match="two slots"):
        RangeSlots.from_slots(encode_range(RANGE) + bytes(RANGE_SLOT) + encode_range(RANGE))


CAPACITY = 300  # three pages of slots


class Slots(RuleBasedStateMachine):
    """The slots, the storage they are written to, and beside them the plain set of ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = RangeSlots(CAPACITY)
        self.area = bytearray(CAPACITY * RANGE_SLOT)
        self.model: dict[int, Range] = {}

    @rule(data=st.data(), domain=st.integers(1, 2**48 - 1))
    def change(self, data: st.DataObject, domain: int) -> None:
        removed = data.draw(st.sets(st.sampled_from(sorted(self.model)))) if self.model else set()
        few = st.sets(st.integers(0, 400), max_size=8)
        many = st.integers(0, 400).map(lambda count: set(range(count)))
        pages = data.draw(st.one_of(few, many))
        added = {page * PAGE: range_at(page, 1, domain) for page in sorted(pages)}
        added = {start: new for start, new in added.items() if start not in self.model or start in removed}
        change = Change(tuple(self.model[start] for start in sorted(removed)), tuple(added.values()))
        after = {start: old for start, old in self.model.items() if start not in removed} | added
        if len(after) > CAPACITY:
            with pytest.raises(StorageRefused):
                self.slots.plan(change)
            return
        plan = self.slots.plan(change)
        assert len(plan.contents) <= max(len(removed), len(added))
        for offset in pages_of(plan.contents):
            page = bytes(self.area[offset : offset + PAGE])
            self.area[offset : offset + PAGE] = rewritten(offset, page, plan.contents)[: len(page)]
        self.slots.apply(plan)
        self.model = after

    @rule()
    def start_again(self) -> None:
        self.slots, found = RangeSlots.from_slots(bytes(self.area))
        assert {interval.start: interval for interval in found} == self.model

    @invariant()
    def storage_holds_exactly_the_ranges(self) -> None:
        stored = [
            decode_range(bytes(self.area[at : at + RANGE_SLOT]))
            for at in range(0, len(self.area), RANGE_SLOT)
        ]
        there = [interval for interval in stored if interval is not None]
        assert {interval.start: interval for interval in there} == self.model
        assert len(there) == len(self.model) == len(self.slots)


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
