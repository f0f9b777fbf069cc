"""What one command makes of the firmware's storage: pages written in its transaction, tables that follow the commit.

So tables and pages agree wherever a crash comes. What is kept of a guest is sealed and written once, at the end of the
command, however often the command changed it. Knows no command and no door.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from keyvisor_firmware.errors import StateUnusable, StorageRefused
from keyvisor_firmware.guests.instance import InstanceId
from keyvisor_firmware.state.records import FrameRow, GuestRow, MappingRow, Records
from keyvisor_firmware.storage import areas
from keyvisor_firmware.storage.address_spaces import Frame
from keyvisor_firmware.storage.contents import Contents
from keyvisor_firmware.storage.cpu_record import CpuRecord
from keyvisor_firmware.storage.frames import Label
from keyvisor_firmware.storage.guest_record import GuestRecord, HeldHsm
from keyvisor_firmware.storage.holdings import Configuration, Holdings, base_context, part
from keyvisor_firmware.storage.intervals import Change, Interval
from keyvisor_firmware.storage.lifecycle import GuestCall, GuestState, after
from keyvisor_firmware.storage.page_records import PAGE_RECORD_LENGTH
from keyvisor_firmware.storage.pages import PAGE, Span
from keyvisor_firmware.storage.return_codes import StorageCode
from keyvisor_firmware.storage.zone_area import (
    GUEST_SLOT,
    GuestSlot,
    RangeSlots,
    ZoneHeader,
    guest_slot_offset,
    pages_of,
    ranges_offset,
    rewritten,
)
from keyvisor_firmware.storage.zone_table import ZoneEntry
from keyvisor_hsm.cards import Apqn


class Draft:
    """One command's changes. Good for one transaction; what it writes is thrown away with it."""

    def __init__(self, holdings: Holdings, records: Records) -> None:
        self._holdings = holdings
        self._records = records
        self.contents = Contents(records)
        self._guests: dict[int, Configuration | None] = {}
        self._unsealed: set[int] = set()
        self._followers: list[Callable[[], None]] = []
        self._table_changed = False

    # --- the zone

    def initialise(self, zone: Span, pieces: Sequence[Interval[ZoneEntry]]) -> None:
        """The zone's base storage is the firmware's: an empty table stands in it, with the storage itself registered."""
        holdings = self._holdings
        header = ZoneHeader(holdings.limits.guests, holdings.storage_limits.ranges)
        self._records.put_zone(zone)
        self.contents.clear(zone)
        self.contents.write(zone.start, header.encode())
        slots = RangeSlots(header.ranges)
        self._change_table(holdings.host.zone.setting(pieces), slots, zone, header)

        def follow() -> None:
            holdings.zone, holdings.header, holdings.slots = zone, header, slots

        self._followers.append(follow)

    def register(self, pieces: Sequence[Interval[ZoneEntry]], *, scrub: bool = True) -> None:
        """Pages are secure from now on. `scrub`: what the host left in them is gone. Raises StorageRefused: table full."""
        if scrub:
            for piece in pieces:
                self.contents.clear(piece.span)
        holdings = self._holdings
        change = holdings.host.zone.setting(pieces)
        self._change_table(change, holdings.slots, self._zone(), holdings.header)

    def release(self, spans: Sequence[Span], *, scrub: bool = True) -> None:
        """Pages are the host's again, zeros; without `scrub` as they stand."""
        if scrub:
            for span in spans:
                self.contents.clear(span)
        holdings = self._holdings
        change = holdings.host.zone.clearing(spans)
        self._change_table(change, holdings.slots, self._zone(), holdings.header)

    def _change_table(
        self, change: Change[ZoneEntry], slots: RangeSlots, zone: Span, header: ZoneHeader
    ) -> None:
        if self._table_changed:
            raise RuntimeError("a command changes the zone-security table once")
        self._table_changed = True
        plan = slots.plan(change)
        ranges = zone.start + ranges_offset(header.guests)
        pages = {}
        for offset in pages_of(plan.contents):
            page = self.contents.read(Span(ranges + offset, PAGE))
            pages[ranges + offset] = rewritten(offset, page, plan.contents)
        self.contents.put(pages)

        def follow() -> None:
            slots.apply(plan)
            self._holdings.host.zone.apply(change)

        self._followers.append(follow)

    def _zone(self) -> Span:
        if self._holdings.zone is None:
            raise StorageRefused(StorageCode.NOT_INITIALISED)
        return self._holdings.zone

    def _put_slot(self, position: int, slot: bytes) -> None:
        self.contents.write(self._zone().start + guest_slot_offset(position), slot)

    # --- guests

    def guest(self, handle: int) -> Configuration:
        """The guest as this command sees it. Raises StorageRefused: no such handle."""
        self._zone()
        found = self._guests.get(handle, self._holdings.guests.get(handle))
        if found is None:
            raise StorageRefused(StorageCode.GUEST_UNKNOWN)
        return found

    def of(self, instance: InstanceId) -> Configuration:
        """The guest of that instance, as this command sees it."""
        found = self._holdings.of(instance)
        if found is None:
            raise StorageRefused(StorageCode.GUEST_UNKNOWN)
        return self.guest(found.row.handle)

    def add_guest(self, row: GuestRow, slot: GuestSlot, variable: tuple[Span, ...]) -> None:
        """A guest whose storage is donated, and nothing more. Raises RowTaken for a name that is taken."""
        self._records.add_guest(row)
        taken = {guest.position for guest in self._holdings.guests.values()}
        position = next(number for number in range(self._holdings.header.guests) if number not in taken)
        self.put(Configuration(row, position, slot, variable))

    def put(self, guest: Configuration) -> None:
        """The guest is this now. Its record is sealed and written at the end of the command."""
        handle = guest.row.handle
        before = self._guests.get(handle, self._holdings.guests.get(handle))
        if before is None or before.slot != guest.slot:
            self._put_slot(guest.position, guest.slot.encode())
        self._guests[handle] = guest
        if guest.record is not None and (before is None or before.record != guest.record):
            self._unsealed.add(handle)

    def keep(self, handle: int, record: GuestRecord) -> Configuration:
        """The guest's record is this now."""
        changed = replace(self.guest(handle), record=record)
        self.put(changed)
        return changed

    def proceed(self, handle: int, call: GuestCall) -> Configuration:
        """The guest, in the state that `call` leads to. Raises StorageRefused where the call is not allowed now."""
        guest = self.guest(handle)
        state = self.require_allowed(guest, call)
        if state is None:
            raise RuntimeError("a guest that is destroyed is in no state: remove it")
        return self.enter(handle, state)

    def require_allowed(self, guest: Configuration, call: GuestCall) -> GuestState | None:
        """The state that `call` leads to, None for the end. Raises StorageRefused."""
        cpus = 0 if guest.record is None else len(guest.record.cpus)
        return after(guest.slot.state, call, guest.row.name, cpus)

    def enter(self, handle: int, state: GuestState) -> Configuration:
        """The guest is in that state now."""
        guest = self.guest(handle)
        entered = replace(guest, slot=replace(guest.slot, state=state))
        self.put(entered)
        return entered

    def remove_guest(self, handle: int) -> None:
        """The guest is gone, and all that hangs on it; its storage has to be released besides."""
        guest = self.guest(handle)
        self._put_slot(guest.position, bytes(GUEST_SLOT))
        self._records.remove_guest(guest.row.instance)
        self._guests[handle] = None
        self._unsealed.discard(handle)

    def put_cpu(self, cpu: CpuRecord, area: Span) -> None:
        """What is kept of a CPU, in its area."""
        sealed = self._holdings.sealer.seal(cpu.encode(), _cpu_context(cpu))
        self._write_area(sealed, (area,))

    # --- what a guest holds

    def bindings(self, instance: InstanceId) -> dict[Apqn, HeldHsm]:
        """What the guest holds, in APQN order."""
        return self.of(instance).held

    def bind(self, instance: InstanceId, held: HeldHsm) -> None:
        """The guest holds the HSM. Raises RowTaken where any guest does."""
        self._records.hold(instance, held.apqn)
        self.set_binding(instance, held)

    def set_binding(self, instance: InstanceId, held: HeldHsm) -> None:
        """Replace what an HSM is to the guest that holds it."""
        self._keep_held(instance, {**self.bindings(instance), held.apqn: held})

    def unbind(self, instance: InstanceId, apqn: Apqn) -> None:
        """The guest does not hold the HSM any more."""
        self._records.let_go(instance, apqn)
        held = self.bindings(instance)
        self._keep_held(instance, {other: held[other] for other in held if other != apqn})

    def _keep_held(self, instance: InstanceId, held: Mapping[Apqn, HeldHsm]) -> None:
        guest = self.of(instance)
        in_order = tuple(held[apqn] for apqn in sorted(held))
        self.keep(guest.row.handle, replace(guest.known, held=in_order))

    # --- a guest's variable area

    def put_store(self, guest: Configuration, sealed: bytes) -> None:
        """Keep the guest's sealed secret store. Raises StorageRefused: the host mapped something else there, or no room."""
        self.require_variable(guest)
        self._write_area(sealed, self._holdings.store_area(guest))

    def require_variable(self, guest: Configuration) -> None:
        """Raises StorageRefused where the guest's variable area is not mapped as it was when it was donated."""
        slot = guest.slot
        self._holdings.host.require_unchanged(slot.asce, slot.handle, slot.variable, firmware=True)

    def page_records(self, guest: Configuration, first: int, count: int) -> bytes:
        """The records of `count` pages of the guest's storage, from page number `first` on."""
        spans = self._records_of(guest, first, count)
        return b"".join(self.contents.read(span) for span in spans)

    def put_page_records(self, guest: Configuration, first: int, records: bytes) -> None:
        """Replace them."""
        at = 0
        for span in self._records_of(guest, first, len(records) // PAGE_RECORD_LENGTH):
            self.contents.write(span.start, records[at : at + span.length])
            at += span.length

    def _records_of(self, guest: Configuration, first: int, count: int) -> tuple[Span, ...]:
        length = PAGE_RECORD_LENGTH
        return part(guest.variable, self._holdings.records_at(guest) + first * length, count * length)

    def _write_area(self, sealed: bytes, spans: Sequence[Span]) -> None:
        try:
            laid = areas.scatter(sealed, spans)
        except StateUnusable as error:
            # What an older configuration had donated has not the room that one of now allows.
            raise StorageRefused(StorageCode.NOT_WRITTEN, str(error)) from None
        self.contents.put(laid.pages)
        for span in laid.rest:
            self.contents.clear(span)

    # --- the host's allocator and address spaces

    def change_frames(self, change: Change[Label]) -> None:
        """What the allocator gave away."""
        self._records.change_frames(
            [one.start for one in change.removed],
            [FrameRow(one.start, one.length, one.value.text) for one in change.added],
        )
        self._followers.append(lambda: self._holdings.host.frames.apply(change))

    def change_space(self, asce: int, change: Change[Frame]) -> None:
        """A part of an address space."""
        self._records.change_mappings(
            asce,
            [one.start for one in change.removed],
            [MappingRow(asce, one.start, one.value.absolute, one.length) for one in change.added],
        )
        self._followers.append(lambda: self._holdings.host.spaces.apply(asce, change))

    # --- the end

    def write(self) -> None:
        """Seal and write the records that changed: the last thing before the commit."""
        for handle in sorted(self._unsealed):
            guest = self.guest(handle)
            sealed = self._holdings.sealer.seal(guest.known.encode(), base_context(guest.row))
            self._write_area(sealed, (guest.slot.base,))

    def adopt(self) -> None:
        """The commit is done: the tables follow."""
        for follow in self._followers:
            follow()
        for handle, guest in self._guests.items():
            if guest is None:
                del self._holdings.guests[handle]
            else:
                self._holdings.guests[handle] = guest


def _cpu_context(cpu: CpuRecord) -> bytes:
    return b"keyvisor cpu record " + cpu.guest.to_bytes(8, "big") + cpu.handle.to_bytes(8, "big")
