"""The commands on donated storage: query, initialise, create, destroy, and the ledger (patents, 1.3; formats, D).

Each is one transaction, but for the creation of a guest, which is two: the donation is taken first, then made the
guest's. If the second fails, or never comes, the guest is there unfinished, and all that can be done with it is to
destroy it: its storage is given back no other way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from keyvisor_firmware.commands import Commands
from keyvisor_firmware.errors import Conflict, FirmwareError, StorageRefused
from keyvisor_firmware.guests.instance import InstanceId
from keyvisor_firmware.guests.register import Register
from keyvisor_firmware.state.records import GuestRow
from keyvisor_firmware.storage.cpu_record import CpuRecord
from keyvisor_firmware.storage.donations import (
    CpuOffer,
    GuestOffer,
    Wanted,
    check_cpu,
    check_guest,
    check_host_side,
    check_init,
    require_room_for_guest,
)
from keyvisor_firmware.storage.guest_record import (
    CUID_LENGTH,
    INSTANCE_LENGTH,
    GuestCpu,
    GuestRecord,
)
from keyvisor_firmware.storage.holdings import Configuration, Holdings
from keyvisor_firmware.storage.ledger import LedgerView, ledger
from keyvisor_firmware.storage.lifecycle import GuestCall, GuestState, ZoneCall, ZoneState, zone_after
from keyvisor_firmware.storage.pages import Span
from keyvisor_firmware.storage.paging import MEMORY_KEY_LENGTH, PAGE_KEY_LENGTH
from keyvisor_firmware.storage.query import storage_query
from keyvisor_firmware.storage.return_codes import StorageCode
from keyvisor_firmware.storage.zone_area import GuestSlot
from keyvisor_guest.wire.qui import encode_query
from keyvisor_hsm.errors import HsmError

_HANDLE_LENGTH: Final = 6  # bytes


class DonationCommands:
    """The host's commands; all raise StorageRefused."""

    def __init__(
        self,
        commands: Commands,
        holdings: Holdings,
        guests: Register,
        randomness: Callable[[int], bytes],
    ) -> None:
        self._commands = commands
        self._holdings = holdings
        self._guests = guests
        self._randomness = randomness
        # What the query tells never changes while the daemon runs (patents, 1.2, feature 6).
        self._query = storage_query(holdings.limits, holdings.storage_limits)

    def query(self, room: int) -> tuple[int, bytes]:
        """The query's block, cut to `room` bytes, and its rc: 0001, or 0100 where it was cut. Allowed at any time."""
        return encode_query(self._query, room)

    def init(self, zone: Span) -> None:
        """Take the zone's base storage. Once."""
        with self._commands.command("initialise storage", None, **_told(zone)) as work:
            zone_after(self._zone_state(), ZoneCall.INIT)
            wanted = self._holdings.amounts.zone_base
            pieces = check_init(zone.start, zone.length, wanted, self._holdings.host)
            work.storage.initialise(zone, pieces)

    def create_guest(self, name: str, offer: GuestOffer) -> int:
        """Take the storage for a guest and make it the guest's; its handle.

        Raises Conflict for a name that is taken. A code with 8000h in it names the handle of a guest that is there
        unfinished, and has to be destroyed.
        """
        with self._commands.alone():
            guest = self._donate(name, offer)
            try:
                self._finish(guest)
            except StorageRefused as error:
                raise error.needing_destroy(guest.row.handle) from None
            except (FirmwareError, SQLAlchemyError, HsmError, OSError) as error:
                raise StorageRefused(
                    StorageCode.NOT_WRITTEN, type(error).__name__, guest.row.handle
                ) from error
        return guest.row.handle

    def _donate(self, name: str, offer: GuestOffer) -> Configuration:
        holdings = self._holdings
        with self._commands.command(
            "donate storage for guest", name, **_told(Span(offer.base, offer.base_length))
        ) as work:
            zone_after(self._zone_state(), ZoneCall.GUEST)
            if any(guest.row.name == name for guest in holdings.guests.values()):
                raise Conflict(f"guest `{name}` is there already: stop it first")
            require_room_for_guest(len(holdings.guests), min(holdings.limits.guests, holdings.header.guests))
            handle = self._new_handle()
            wanted = Wanted(
                holdings.amounts.guest_base,
                holdings.amounts.variable(offer.storage_length),
                self._query.max_address,
            )
            pieces = check_guest(offer, wanted, handle, holdings.host)
            row = GuestRow(InstanceId(self._randomness(INSTANCE_LENGTH).hex()), name, handle)
            slot = GuestSlot(
                handle=handle,
                state=GuestState.UNFINISHED,
                base=Span(offer.base, offer.base_length),
                variable=Span(offer.virtual, offer.virtual_length),
                asce=offer.asce,
                sca=offer.sca,
                storage=Span(offer.storage_origin, offer.storage_length),
            )
            variable = tuple(one.span for one in pieces if one.value.virtual is not None)
            work.storage.add_guest(row, slot, variable)
            work.storage.register(pieces)
            return work.storage.guest(handle)

    def _finish(self, guest: Configuration) -> None:
        """What the host has for the guest is checked, and the record is written: the guest is created."""
        holdings, slot = self._holdings, guest.slot
        with self._commands.command("create guest", guest.row.name) as work:
            others = {other.slot.asce for handle, other in holdings.guests.items() if handle != slot.handle}
            check_host_side(slot.asce, slot.sca, others, holdings.host)
            record = GuestRecord(
                name=guest.row.name,
                instance=guest.row.instance,
                cuid=self._randomness(CUID_LENGTH),
                memory_key=self._randomness(MEMORY_KEY_LENGTH),
                page_key=self._randomness(PAGE_KEY_LENGTH),
                association_secrets=holdings.limits.association_secrets,
                retrievable_secrets=holdings.limits.retrievable_secrets,
            )
            work.storage.put(replace(guest, record=record))
            work.storage.proceed(slot.handle, GuestCall.FINISH)

    def create_cpu(self, handle: int, offer: CpuOffer) -> int:
        """Take the storage for a CPU of a guest; the CPU's handle."""
        holdings = self._holdings
        with self._commands.command("create cpu", self._name(handle), number=str(offer.number)) as work:
            guest = work.storage.proceed(handle, GuestCall.CREATE_CPU)
            cpus = guest.known.cpus
            pieces = check_cpu(
                offer,
                handle,
                {cpu.number for cpu in cpus},
                self._query.max_cpu_id,
                holdings.amounts.cpu,
                holdings.host,
            )
            cpu = GuestCpu(offer.number, self._new_handle(), offer.storage)
            work.storage.register(pieces)
            in_order = tuple(sorted((*cpus, cpu), key=lambda one: one.number))
            work.storage.keep(handle, replace(guest.known, cpus=in_order))
            area = Span(offer.storage, offer.storage_length)
            work.storage.put_cpu(CpuRecord(handle, cpu.number, cpu.handle), area)
            return cpu.handle

    def destroy_cpu(self, handle: int) -> None:
        """End a CPU: its storage is scrubbed, and the host's again."""
        with self._commands.alone():
            number, name = self._of_cpu(handle)
            with self._commands.command("destroy cpu", name, number=str(number)) as work:
                guest, cpu = self._cpu(handle)
                work.storage.proceed(guest.row.handle, GuestCall.DESTROY_CPU)
                left = tuple(one for one in guest.known.cpus if one is not cpu)
                work.storage.keep(guest.row.handle, replace(guest.known, cpus=left))
                work.storage.release([Span(cpu.origin, self._holdings.amounts.cpu)])

    def destroy_guest(self, handle: int) -> str:
        """End a guest without CPUs: what it holds is free, its secrets and its policy are gone, its storage is scrubbed
        and the host's again. Its key partitions stay. Its name.

        Where this is refused, nothing is given back.
        """
        with self._commands.command("destroy guest", self._name(handle)) as work:
            guest = work.storage.guest(handle)
            work.storage.require_allowed(guest, GuestCall.DESTROY_GUEST)
            work.storage.require_variable(guest)
            if guest.slot.state is GuestState.RUNNING:
                self._guests.end(guest, work, self._commands)
            work.storage.release([one.span for one in self._holdings.host.zone.of_domain(handle)])
            work.storage.remove_guest(handle)
            return guest.row.name

    def ledger(self) -> LedgerView:
        """Who holds which storage."""
        holdings = self._holdings
        with self._commands.alone():
            names = {handle: guest.row.name for handle, guest in holdings.guests.items()}
            return ledger(holdings.host, holdings.donations(), names, initialised=holdings.zone is not None)

    # --- inside

    def _zone_state(self) -> ZoneState:
        return ZoneState.UNINITIALISED if self._holdings.zone is None else ZoneState.INITIALISED

    def _new_handle(self) -> int:
        """A number that nothing has, and nothing had: 48 random bits."""
        taken = {0, *self._holdings.guests, *(cpu.handle for _, cpu in self._cpus())}
        while (handle := int.from_bytes(self._randomness(_HANDLE_LENGTH), "big")) in taken:
            pass
        return handle

    def _name(self, handle: int) -> str | None:
        with self._commands.alone():
            guest = self._holdings.guests.get(handle)
            return None if guest is None else guest.row.name

    def _of_cpu(self, handle: int) -> tuple[int | str, str | None]:
        """For the audit log: the CPU's number, and its guest's name."""
        for guest, cpu in self._cpus():
            if cpu.handle == handle:
                return cpu.number, guest.row.name
        return "unknown", None

    def _cpu(self, handle: int) -> tuple[Configuration, GuestCpu]:
        zone_after(self._zone_state(), ZoneCall.GUEST)
        for guest, cpu in self._cpus():
            if cpu.handle == handle:
                return guest, cpu
        raise StorageRefused(StorageCode.CPU_UNKNOWN)

    def _cpus(self) -> Iterator[tuple[Configuration, GuestCpu]]:
        for guest in self._holdings.guests.values():
            for cpu in () if guest.record is None else guest.record.cpus:
                yield guest, cpu


def _told(span: Span) -> dict[str, str]:
    return {"origin": f"{span.start:#x}", "length": str(span.length)}
