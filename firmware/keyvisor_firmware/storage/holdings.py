"""What the firmware holds of the machine's storage, and what it keeps there.

`Holdings` is what the last commit left: the tables in memory, made again from the zone's base storage and the guests'
areas at every start. A `Draft` is what one command makes of them: it writes pages in the command's transaction, and the
tables follow it after the commit (`adopt`). So tables and pages agree wherever a crash comes.

The firmware keeps nothing of a guest outside of what was donated for it but its name, its handle and which HSMs it holds
(rows, since no two guests may have the same). Knows no command and no door.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from keyvisor_firmware.config import Limits, StorageLimits
from keyvisor_firmware.errors import RecordBroken, StateUnusable, StorageRefused
from keyvisor_firmware.guests.host_key import Sealer
from keyvisor_firmware.guests.instance import Instance, InstanceId
from keyvisor_firmware.state.records import FrameRow, GuestRow, MappingRow, Records
from keyvisor_firmware.storage import areas
from keyvisor_firmware.storage.address_spaces import AddressSpaces, Frame
from keyvisor_firmware.storage.amounts import Amounts, amounts
from keyvisor_firmware.storage.contents import Contents
from keyvisor_firmware.storage.cpu_record import CpuRecord
from keyvisor_firmware.storage.frames import Frames, Label
from keyvisor_firmware.storage.guest_record import GuestRecord, HeldHsm
from keyvisor_firmware.storage.host_storage import HostStorage
from keyvisor_firmware.storage.intervals import Change, Interval
from keyvisor_firmware.storage.ledger import Donation
from keyvisor_firmware.storage.lifecycle import GuestCall, GuestState, after
from keyvisor_firmware.storage.page_records import PAGE_RECORD_LENGTH
from keyvisor_firmware.storage.pages import PAGE, Span
from keyvisor_firmware.storage.return_codes import StorageCode
from keyvisor_firmware.storage.zone_area import (
    GUEST_SLOT,
    HEADER_LENGTH,
    RANGE_SLOT,
    GuestSlot,
    RangeSlots,
    ZoneHeader,
    guest_slot_offset,
    pages_of,
    ranges_offset,
    rewritten,
)
from keyvisor_firmware.storage.zone_table import ZoneEntry, ZoneTable
from keyvisor_hsm.cards import Apqn
from keyvisor_hsm.errors import SealBroken


@dataclass(frozen=True, slots=True)
class Configuration:
    """A guest as the firmware keeps it, from the donation on. `record` is None while its creation is unfinished.

    `position` is that of its slot. `variable` are the absolute pieces of its variable area, in virtual order.
    """

    row: GuestRow
    position: int
    slot: GuestSlot
    variable: tuple[Span, ...]
    record: GuestRecord | None = None

    @property
    def known(self) -> GuestRecord:
        """The record, of a guest whose creation is finished."""
        if self.record is None:
            raise RuntimeError("a guest whose creation is unfinished has no record")
        return self.record

    @property
    def instance(self) -> Instance:
        """The guest as it was measured, once its image's header was handed over."""
        record = self.known
        if record.identity is None:
            raise RuntimeError("a guest without a header is no instance of any image")
        return Instance(
            id=record.instance,
            name=record.name,
            cuid=record.cuid,
            identity=record.identity,
            started=record.started,
            host_key_hash=record.host_key_hash,
            opens_after_lock=record.opens_after_lock,
        )

    @property
    def held(self) -> dict[Apqn, HeldHsm]:
        """What it holds, in APQN order."""
        return {} if self.record is None else {one.apqn: one for one in self.record.held}


class Holdings:
    """The tables as the last commit left them. Whoever uses them is alone (`Commands`)."""

    def __init__(self, limits: Limits, storage: StorageLimits, sealer: Sealer) -> None:
        self.limits = limits
        self.storage_limits = storage
        self.sealer = sealer
        self.amounts: Amounts = amounts(limits, storage)
        self.zone: Span | None = None
        self.header = ZoneHeader(0, 0)  # what the zone's base storage was donated for
        self.slots = RangeSlots(0)
        self.guests: dict[int, Configuration] = {}
        self.host = HostStorage(storage.size, ZoneTable(), AddressSpaces(), Frames())

    # --- the start of the daemon

    def load(self, records: Records) -> None:
        """Make the tables again from what is donated. Raises StateUnusable."""
        frames = Frames(
            Interval(row.absolute, row.absolute + row.length, Label(row.label)) for row in records.frames()
        )
        mapped: dict[int, list[Interval[Frame]]] = {}
        for row in records.mappings():
            piece = Interval(row.virtual, row.virtual + row.length, Frame(row.absolute))
            mapped.setdefault(row.asce, []).append(piece)
        spaces = AddressSpaces(mapped)
        self.host = HostStorage(self.storage_limits.size, ZoneTable(), spaces, frames)
        self.zone = records.zone()
        self.guests = {}
        if self.zone is not None:
            try:
                self._load_zone(records, self.zone)
            except (RecordBroken, SealBroken, StorageRefused) as error:
                raise _unusable("the zone's base storage", str(error)) from None

    def _load_zone(self, records: Records, zone: Span) -> None:
        contents = Contents(records)
        self.header = ZoneHeader.decode(contents.read(Span(zone.start, HEADER_LENGTH)))
        ranges = Span(zone.start + ranges_offset(self.header.guests), self.header.ranges * RANGE_SLOT)
        self.slots, intervals = RangeSlots.from_slots(contents.read(ranges))
        table = ZoneTable(intervals)
        if any(one.end > self.host.size for one in table):
            raise _unusable("the machine's storage", "is smaller than it was: `storage.size` must not shrink")
        self.host = HostStorage(self.host.size, table, self.host.spaces, self.host.frames)
        variable = _variable(table)
        rows = {row.handle: row for row in records.guests()}
        for position in range(self.header.guests):
            at = zone.start + guest_slot_offset(position)
            slot = GuestSlot.decode(contents.read(Span(at, GUEST_SLOT)))
            if slot is None:
                continue
            row = rows.pop(slot.handle, None)
            if row is None:
                raise _unusable("the zone's base storage", "names a guest that is not there")
            bare = Configuration(row, position, slot, variable.get(slot.handle, ()))
            self.guests[slot.handle] = self._with_record(contents, bare)
        if rows:
            raise _unusable("the zone's base storage", "does not name every guest")

    def _with_record(self, contents: Contents, bare: Configuration) -> Configuration:
        if bare.slot.state is GuestState.UNFINISHED:
            return bare
        try:
            sealed = areas.gather((bare.slot.base,), contents.read)
            record = GuestRecord.decode(self.sealer.unseal(sealed, _base_context(bare.row)))
        except (SealBroken, RecordBroken):
            raise _unusable(f"the base storage of guest `{bare.row.name}`", "does not open") from None
        return replace(bare, record=record)

    # --- questions

    def draft(self, records: Records) -> Draft:
        """What a command changes, in the transaction of `records`."""
        return Draft(self, records)

    def named(self, name: str) -> Configuration | None:
        """The guest of that name, whatever its state."""
        return next((guest for guest in self.guests.values() if guest.row.name == name), None)

    def of(self, instance: InstanceId) -> Configuration | None:
        """The guest of that instance."""
        return next((guest for guest in self.guests.values() if guest.row.instance == instance), None)

    def bindings(self, instance: InstanceId) -> dict[Apqn, HeldHsm]:
        """What the guest holds, in APQN order."""
        guest = self.of(instance)
        return {} if guest is None else guest.held

    def donations(self) -> Iterator[Donation]:
        """The absolute donations there are."""
        if self.zone is not None:
            yield Donation("firmware", "zone base", self.zone)
        for guest in self.guests.values():
            yield Donation(guest.row.name, "guest base", guest.slot.base)
            for cpu in () if guest.record is None else guest.record.cpus:
                # No configuration changes what a CPU needs.
                yield Donation(guest.row.name, "cpu", Span(cpu.origin, self.amounts.cpu))

    def store_area(self, guest: Configuration) -> tuple[Span, ...]:
        """Where the guest's secret store lies: the first part of its variable area."""
        return _part(guest.variable, 0, self.records_at(guest))

    def records_at(self, guest: Configuration) -> int:
        """Where in the guest's variable area the page records begin, bytes.

        What was donated tells, and no configuration of now: page records take the same at all times.
        """
        records = self.amounts.variable(guest.slot.storage.length) - self.amounts.secret_store
        return guest.slot.variable.length - records


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
        return _part(guest.variable, self._holdings.records_at(guest) + first * length, count * length)

    def _write_area(self, sealed: bytes, spans: Sequence[Span]) -> None:
        laid = areas.scatter(sealed, spans)
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
            sealed = self._holdings.sealer.seal(guest.known.encode(), _base_context(guest.row))
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


def _variable(table: Iterable[Interval[ZoneEntry]]) -> Mapping[int, tuple[Span, ...]]:
    """The pieces of every domain's variable area, in virtual order."""
    found: dict[int, list[tuple[int, Span]]] = {}
    for one in table:
        if one.value.firmware and one.value.virtual is not None:
            found.setdefault(one.value.domain, []).append((one.value.virtual, one.span))
    return {domain: tuple(span for _, span in sorted(pieces)) for domain, pieces in found.items()}


def _part(spans: Sequence[Span], offset: int, length: int) -> tuple[Span, ...]:
    """`length` bytes from `offset` on of an area that lies in several pieces."""
    found = []
    for span in spans:
        start = min(offset, span.length)
        taken = min(length, span.length - start)
        if taken:
            found.append(Span(span.start + start, taken))
        offset -= start
        length -= taken
    if length:
        raise RuntimeError("more than the area has")
    return tuple(found)


def _base_context(row: GuestRow) -> bytes:
    """Where a guest's record belongs: one instance, and nowhere else."""
    return b"keyvisor guest record of instance " + row.instance.encode() + row.handle.to_bytes(8, "big")


def _cpu_context(cpu: CpuRecord) -> bytes:
    return b"keyvisor cpu record " + cpu.guest.to_bytes(8, "big") + cpu.handle.to_bytes(8, "big")


def _unusable(what: str, why: str) -> StateUnusable:
    return StateUnusable(f"{what} {why}: restore the state directory as a whole, or choose another --state")
