"""What the firmware holds of the machine's storage: the tables in memory, as the last commit left them.

They are made again from the zone's base storage and the guests' areas at every start, and change by a Draft only
(`draft`). The firmware keeps nothing of a guest outside of what was donated for it but its name, its handle and which
HSMs it holds (rows, since no two guests may have the same). Knows no command and no door.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from keyvisor_firmware.config import Limits, StorageLimits
from keyvisor_firmware.errors import RecordBroken, StateUnusable, StorageRefused
from keyvisor_firmware.guests.host_key import Sealer
from keyvisor_firmware.guests.instance import Instance, InstanceId
from keyvisor_firmware.state.records import GuestRow, Records
from keyvisor_firmware.storage import areas
from keyvisor_firmware.storage.address_spaces import AddressSpaces, Frame
from keyvisor_firmware.storage.amounts import Amounts, amounts
from keyvisor_firmware.storage.contents import Contents
from keyvisor_firmware.storage.frames import Frames, Label
from keyvisor_firmware.storage.guest_record import GuestRecord, HeldHsm
from keyvisor_firmware.storage.host_storage import HostStorage
from keyvisor_firmware.storage.intervals import Interval
from keyvisor_firmware.storage.ledger import Donation
from keyvisor_firmware.storage.lifecycle import GuestState
from keyvisor_firmware.storage.pages import Span
from keyvisor_firmware.storage.return_codes import StorageCode
from keyvisor_firmware.storage.zone_area import (
    GUEST_SLOT,
    HEADER_LENGTH,
    RANGE_SLOT,
    GuestSlot,
    RangeSlots,
    ZoneHeader,
    guest_slot_offset,
    ranges_offset,
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
            self._load_zone(records, self.zone)

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
        slots = contents.read(Span(zone.start + guest_slot_offset(0), self.header.guests * GUEST_SLOT))
        for position in range(self.header.guests):
            slot = GuestSlot.decode(slots[position * GUEST_SLOT : (position + 1) * GUEST_SLOT])
            if slot is None:
                continue
            row = rows.pop(slot.handle, None)
            if row is None:
                raise _unusable("the zone's base storage", "names a guest that is not there")
            bare = Configuration(row, position, slot, variable.get(slot.handle, ()))
            self.guests[slot.handle] = self._with_record(contents, bare)
        if rows:
            raise _unusable("the zone's base storage", "does not name every guest")
        held = {apqn: guest.row.instance for guest in self.guests.values() for apqn in guest.held}
        if held != records.holders():
            raise _unusable("the HSMs' holders", "are not those that the guests' base storage names")

    def _with_record(self, contents: Contents, bare: Configuration) -> Configuration:
        if bare.slot.state is GuestState.UNFINISHED:
            return bare
        try:
            sealed = areas.gather((bare.slot.base,), contents.read)
            record = GuestRecord.decode(self.sealer.unseal(sealed, base_context(bare.row)))
        except (SealBroken, RecordBroken):
            raise _unusable(f"the base storage of guest `{bare.row.name}`", "does not open") from None
        return replace(bare, record=record)

    # --- questions

    def guest(self, handle: int) -> Configuration:
        """The guest, whatever its state. Raises StorageRefused: no such handle."""
        try:
            return self.guests[handle]
        except KeyError:
            raise StorageRefused(StorageCode.GUEST_UNKNOWN) from None

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
        return part(guest.variable, 0, self.records_at(guest))

    def records_at(self, guest: Configuration) -> int:
        """Where in the guest's variable area the page records begin, bytes.

        What was donated tells, and no configuration of now: page records take the same at all times.
        """
        records = self.amounts.variable(guest.slot.storage.length) - self.amounts.secret_store
        return guest.slot.variable.length - records


def _variable(table: Iterable[Interval[ZoneEntry]]) -> Mapping[int, tuple[Span, ...]]:
    """The pieces of every domain's variable area, in virtual order."""
    found: dict[int, list[tuple[int, Span]]] = {}
    for one in table:
        if one.value.firmware and one.value.virtual is not None:
            found.setdefault(one.value.domain, []).append((one.value.virtual, one.span))
    return {domain: tuple(span for _, span in sorted(pieces)) for domain, pieces in found.items()}


def base_context(row: GuestRow) -> bytes:
    """Where a guest's record belongs: one instance, and nowhere else."""
    return b"keyvisor guest record of instance " + row.instance.encode() + row.handle.to_bytes(8, "big")


def _unusable(what: str, why: str) -> StateUnusable:
    return StateUnusable(f"{what} {why}: restore the state directory as a whole, or choose another --state")


def part(spans: Sequence[Span], offset: int, length: int) -> tuple[Span, ...]:
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
