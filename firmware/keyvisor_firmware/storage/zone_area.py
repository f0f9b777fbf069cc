"""What lies in the zone base: a header, the table of guests, and the zone-security table.

All numbers big-endian; nothing here is secret.

    0                    header, one page: "kv zone" ‖ 0 ‖ u32 version 1 ‖ u32 guest slots ‖ u32 range slots ‖ zeros
    1000                 guest slots, 128 bytes each, up to a whole page
    ranges_offset(..)    range slots, 32 bytes each

    guest slot: 00 u64 handle, 0 where the slot is free       range slot: 00 u64 address, its lower 12 bits flags:
                08 u8 state of its lifecycle, 7 zeros                        1 secure, 2 the firmware's, 4 compare
                10 u64 base: origin   18 u64 length                          disabled; 0 where the slot is free
                20 u64 variable area, virtual: origin   28 u64 length        08 u64 length
                30 u64 ASCE           38 u64 SCA                             10 u64 domain
                40 u64 guest storage: origin   48 u64 length                 18 u64 virtual address; 0 where compare
                50 zeros                                                     is disabled

A range stays in the slot that it was put into, so that a change of the table rewrites the slots of what it changes and
no others, whatever the number of ranges. Slots lie across no two pages. Knows no storage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from keyvisor_firmware.errors import RecordBroken, StorageRefused
from keyvisor_firmware.storage.intervals import Change, Interval
from keyvisor_firmware.storage.lifecycle import GuestState
from keyvisor_firmware.storage.pages import PAGE, Span, is_whole, whole_pages
from keyvisor_firmware.storage.return_codes import StorageCode
from keyvisor_firmware.storage.zone_table import ZoneEntry
from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import Malformed

HEADER_LENGTH: Final = PAGE
GUEST_SLOT: Final = 128
RANGE_SLOT: Final = 32

_MAGIC: Final = b"kv zone\x00"
_VERSION: Final = 1
_SECURE: Final = 1
_FIRMWARE: Final = 2
_COMPARE_DISABLED: Final = 4
_FLAGS: Final = PAGE - 1
_STATES: Final = tuple(GuestState)
_FREE: Final = bytes(RANGE_SLOT)


def guest_slot_offset(slot: int) -> int:
    """Where guest slot number `slot` (from 0) stands in the zone base."""
    return HEADER_LENGTH + slot * GUEST_SLOT


def ranges_offset(guests: int) -> int:
    """Where the range slots begin in the zone base, behind `guests` guest slots."""
    return HEADER_LENGTH + whole_pages(guests * GUEST_SLOT)


def zone_length(guests: int, ranges: int) -> int:
    """Bytes of the zone base that are used, in whole pages."""
    return ranges_offset(guests) + whole_pages(ranges * RANGE_SLOT)


@dataclass(frozen=True, slots=True)
class ZoneHeader:
    """How many slots there are of each kind."""

    guests: int
    ranges: int

    def encode(self) -> bytes:
        """The header's page."""
        numbers = (_VERSION, self.guests, self.ranges)
        return (_MAGIC + b"".join(number.to_bytes(4, "big") for number in numbers)).ljust(
            HEADER_LENGTH, b"\x00"
        )

    @classmethod
    def decode(cls, page: bytes) -> Self:
        """The header that `page` is of. Raises RecordBroken for anything else."""
        header = cls(int.from_bytes(page[12:16], "big"), int.from_bytes(page[16:20], "big"))
        if header.encode() != page:
            raise RecordBroken("not the header of a zone")
        return header


@dataclass(frozen=True, slots=True)
class GuestSlot:
    """One guest as the zone knows it: its handle (from 1 on), its state, and what the host gave for it.

    `base` and `sca` are host-absolute; `variable` is virtual in the address space `asce`; `storage` guest-absolute.
    """

    handle: int
    state: GuestState
    base: Span
    variable: Span
    asce: int
    sca: int
    storage: Span

    def encode(self) -> bytes:
        """The slot's 128 bytes."""
        numbers = (
            self.base.start,
            self.base.length,
            self.variable.start,
            self.variable.length,
            self.asce,
            self.sca,
            self.storage.start,
            self.storage.length,
        )
        head = self.handle.to_bytes(8, "big") + _STATES.index(self.state).to_bytes(1, "big") + bytes(7)
        return (head + b"".join(number.to_bytes(8, "big") for number in numbers)).ljust(GUEST_SLOT, b"\x00")

    @classmethod
    def decode(cls, data: bytes) -> Self | None:
        """The guest of a slot's 128 bytes, None where the slot is free. Raises RecordBroken for anything else."""
        if data == bytes(GUEST_SLOT):
            return None
        try:
            return cls._read(Cursor(data))
        except Malformed as error:
            raise RecordBroken(f"not the slot of a guest: {error}") from error

    @classmethod
    def _read(cls, cursor: Cursor) -> Self:
        handle, state = cursor.number(8), cursor.number(1)
        cursor.reserved(7)
        base, variable = _take_span(cursor), _take_span(cursor)
        asce, sca = cursor.number(8), cursor.number(8)
        storage = _take_span(cursor)
        cursor.reserved(GUEST_SLOT - 0x50)
        cursor.end()
        if not handle or state >= len(_STATES) or cursor.used_reserved:
            raise Malformed("no handle, no state, or a reserved field in use")
        return cls(handle, _STATES[state], base, variable, asce, sca, storage)


def encode_range(interval: Interval[ZoneEntry]) -> bytes:
    """The 32 bytes of a range's slot."""
    entry = interval.value
    flags = _SECURE | _FIRMWARE * entry.firmware | _COMPARE_DISABLED * (entry.virtual is None)
    numbers = (interval.start | flags, interval.end - interval.start, entry.domain, entry.virtual or 0)
    return b"".join(number.to_bytes(8, "big") for number in numbers)


def decode_range(data: bytes) -> Interval[ZoneEntry] | None:
    """The range of a slot's 32 bytes, None where the slot is free. Raises RecordBroken for anything else."""
    if data == _FREE:
        return None
    place, length, domain, virtual = (
        int.from_bytes(data[at : at + 8], "big") for at in range(0, RANGE_SLOT, 8)
    )
    start, flags = place & ~_FLAGS, place & _FLAGS
    entry = ZoneEntry(domain, bool(flags & _FIRMWARE), None if flags & _COMPARE_DISABLED else virtual)
    interval = Interval(start, start + length, entry)
    if not length or not is_whole(length, virtual) or encode_range(interval) != data:
        raise RecordBroken("not the slot of a range")
    return interval


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """What a change of the zone-security table does to the slots: `contents` (32 bytes) by slot number."""

    contents: Mapping[int, bytes]
    removed: tuple[tuple[int, int], ...]  # start of the range, slot
    added: tuple[tuple[int, int], ...]


class RangeSlots:
    """Which slot holds which range of the zone-security table. `capacity` is the number of slots.

    The cost of a change is that of its own ranges. What is planned is put into storage by the caller, and applied
    when that is done.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity: Final = capacity
        self._slots: dict[int, int] = {}
        self._free: list[int] = []  # below `_fresh`; the last one is used first
        self._fresh = 0

    @classmethod
    def from_slots(cls, data: bytes) -> tuple[Self, tuple[Interval[ZoneEntry], ...]]:
        """From the bytes of all range slots: which is where, and the ranges in the order of their slots.

        Raises RecordBroken for a slot that is none, and for two ranges with one address.
        """
        slots = cls(len(data) // RANGE_SLOT)
        found = []
        for slot in range(slots.capacity):
            interval = decode_range(data[slot * RANGE_SLOT : (slot + 1) * RANGE_SLOT])
            if interval is None:
                continue
            if interval.start in slots._slots:
                raise RecordBroken("a range is in two slots")
            slots._slots[interval.start] = slot
            slots._free.extend(range(slots._fresh, slot))
            slots._fresh = slot + 1
            found.append(interval)
        return slots, tuple(found)

    def __len__(self) -> int:
        """How many slots are in use."""
        return len(self._slots)

    def plan(self, change: Change[ZoneEntry]) -> SlotPlan:
        """The slots that `change` rewrites; nothing is changed yet.

        Raises StorageRefused where there are not slots enough, ValueError for a change of another table.
        """
        going = {interval.start for interval in change.removed}
        wrong = [start for start in going if start not in self._slots]
        wrong += [i.start for i in change.added if i.start in self._slots and i.start not in going]
        if wrong:
            raise ValueError(f"the slots are not those of the table that the change is for: {wrong[0]:#x}")
        removed = tuple((interval.start, self._slots[interval.start]) for interval in change.removed)
        slots = [slot for _, slot in removed]
        slots += self._unused(len(change.added) - len(slots))
        added = tuple((interval.start, slot) for interval, slot in zip(change.added, slots, strict=False))
        contents = dict.fromkeys((slot for _, slot in removed), _FREE)
        contents |= {
            slot: encode_range(interval) for interval, (_, slot) in zip(change.added, added, strict=True)
        }
        return SlotPlan(contents, removed, added)

    def apply(self, plan: SlotPlan) -> None:
        """What was planned is done. Raises ValueError, and changes nothing, where another change came in between."""
        taken = {slot for _, slot in plan.added} - {slot for _, slot in plan.removed}
        unused = set(self._unused(len(taken)))
        if taken != unused or any(self._slots.get(start) != slot for start, slot in plan.removed):
            raise ValueError("the slots are not as they were when this was planned")
        from_free = min(len(taken), len(self._free))
        del self._free[len(self._free) - from_free :]
        self._fresh += len(taken) - from_free
        for start, _ in plan.removed:
            del self._slots[start]
        self._slots.update(plan.added)
        kept = {slot for _, slot in plan.added}
        self._free.extend(slot for _, slot in plan.removed if slot not in kept)

    def _unused(self, count: int) -> list[int]:
        """The next `count` unused slots, in the order in which they are used."""
        if count <= 0:
            return []
        if len(self._slots) + count > self.capacity:
            raise StorageRefused(StorageCode.RANGES_EXHAUSTED, f"{self.capacity} ranges are the most")
        freed = self._free[-count:][::-1]
        return freed + list(range(self._fresh, self._fresh + count - len(freed)))


def pages_of(slots: Iterable[int]) -> tuple[int, ...]:
    """The pages that hold these range slots, ascending: each page's offset behind the first range slot."""
    return tuple(sorted({slot * RANGE_SLOT // PAGE * PAGE for slot in slots}))


def rewritten(offset: int, page: bytes, contents: Mapping[int, bytes]) -> bytes:
    """`page`, at `offset` behind the first range slot, with those of the `contents` that lie in it."""
    changed = bytearray(page)
    first = offset // RANGE_SLOT
    for at in range(PAGE // RANGE_SLOT):
        if (content := contents.get(first + at)) is not None:
            changed[at * RANGE_SLOT : (at + 1) * RANGE_SLOT] = content
    return bytes(changed)


def _take_span(cursor: Cursor) -> Span:
    return Span(cursor.number(8), cursor.number(8))
