"""The host's door: a method per row of HOST_ROUTES. The host donates storage, starts and stops guests, attaches HSMs; it
is told nothing of secrets, policies, refusals, master keys or who holds what HSM.
"""

from __future__ import annotations

import threading
from typing import Protocol

from keyvisor_firmware.doors import answers
from keyvisor_firmware.firmware import Firmware
from keyvisor_firmware.guests.instance import Instance
from keyvisor_firmware.storage.donations import CpuOffer, GuestOffer
from keyvisor_firmware.storage.guest_record import UnpackedRun
from keyvisor_firmware.storage.pages import Span
from keyvisor_guest.wire import messages, storage_messages
from keyvisor_guest.wire.messages import Done
from keyvisor_hsm.cards import Apqn


class GuestDoors(Protocol):
    """Where guests' doors appear and vanish. Called from threads."""

    def require_possible(self, name: str) -> None:
        """Raises Conflict where a guest of that name cannot have a door."""

    def open(self, instance: Instance) -> None:
        """Make the guest's door. Raises OSError."""

    def close(self, name: str) -> None:
        """The door is gone when this returns."""


class HostHandlers:
    """What the host can ask for."""

    def __init__(self, firmware: Firmware, guest_doors: GuestDoors) -> None:
        self._firmware = firmware
        self._donations = firmware.donations
        self._booting = firmware.booting
        self._paging = firmware.paging
        self._host = firmware.host_storage
        self._doors = guest_doors
        # A stop must not take away the door of the guest that was started under the same name meanwhile.
        self._lifecycle = threading.Lock()

    # --- donation

    def query_storage(self, body: storage_messages.QueryStorage) -> storage_messages.StorageBlock:
        return answers.storage_block(*self._donations.query(body.length))

    def init_storage(self, body: storage_messages.InitStorage) -> Done:
        self._donations.init(Span(body.origin, body.length))
        return Done()

    def create_guest(self, body: storage_messages.CreateGuest) -> storage_messages.Created:
        self._doors.require_possible(body.name)
        offer = GuestOffer(
            base=body.base,
            base_length=body.base_length,
            virtual=body.virtual,
            virtual_length=body.virtual_length,
            storage_origin=body.storage_origin,
            storage_length=body.storage_length,
            asce=body.asce,
            sca=body.sca,
        )
        return storage_messages.Created(handle=self._donations.create_guest(body.name, offer))

    def create_cpu(self, body: storage_messages.CreateCpu) -> storage_messages.Created:
        offer = CpuOffer(body.number, body.storage, body.storage_length)
        return storage_messages.Created(handle=self._donations.create_cpu(body.handle, offer))

    def destroy_cpu(self, body: storage_messages.ByHandle) -> Done:
        self._donations.destroy_cpu(body.handle)
        return Done()

    def destroy_guest(self, body: storage_messages.ByHandle) -> Done:
        with self._lifecycle:
            self._doors.close(self._donations.destroy_guest(body.handle))
        return Done()

    def storage(self) -> storage_messages.Ledger:
        return answers.ledger(self._donations.ledger())

    # --- boot

    def set_parameters(self, body: storage_messages.SetParameters) -> Done:
        self._booting.set_parameters(body.handle, Span(body.header, body.header_length))
        return Done()

    def unpack(self, body: storage_messages.Unpack) -> Done:
        run = UnpackedRun(body.address, body.length, bytes.fromhex(body.tweak), body.offset)
        self._booting.unpack(body.handle, run)
        return Done()

    def verify(self, body: storage_messages.ByHandle) -> Done:
        self._booting.verify(body.handle)
        return Done()

    def start_guest(self, body: storage_messages.ByHandle) -> messages.Guest:
        with self._lifecycle:
            instance = self._booting.start(body.handle)
            try:
                self._doors.open(instance)
            except BaseException:
                self._booting.halt(body.handle)
                raise
        return answers.guest(self._firmware.guest(body.handle))

    # --- paging

    def export_pages(self, body: storage_messages.ConvertPages) -> Done:
        self._paging.export_pages(body.handle, Span(body.address, body.length))
        return Done()

    def import_pages(self, body: storage_messages.ConvertPages) -> Done:
        self._paging.import_pages(body.handle, Span(body.address, body.length))
        return Done()

    # --- the host's own storage

    def allocate(self, body: storage_messages.Allocate) -> storage_messages.Allocated:
        absolute = self._host.allocate(body.label, body.length, body.alignment, body.at_least)
        return storage_messages.Allocated(absolute=absolute)

    def free(self, body: storage_messages.FreeFrames) -> storage_messages.Freed:
        freed, kept = self._host.free(body.label)
        return storage_messages.Freed(freed=freed, kept=kept)

    def map_pages(self, body: storage_messages.MapPages) -> Done:
        self._host.map(body.asce, body.virtual, Span(body.absolute, body.length), body.label)
        return Done()

    def unmap_pages(self, body: storage_messages.UnmapPages) -> Done:
        self._host.unmap(body.asce, Span(body.virtual, body.length))
        return Done()

    def read_storage(self, body: storage_messages.ReadStorage) -> storage_messages.StorageContent:
        return answers.storage_content(self._host.read(Span(body.address, body.length)))

    def write_storage(self, body: storage_messages.WriteHostStorage) -> Done:
        self._host.write(body.address, body.data, body.label)
        return Done()

    # --- guests and HSMs

    def list_guests(self) -> messages.GuestList:
        return messages.GuestList(guests=[answers.guest(view) for view in self._firmware.list_guests()])

    def attach(self, name: str, apqn: Apqn) -> Done:
        self._firmware.attach(name, apqn)
        return Done()

    def detach(self, name: str, apqn: Apqn) -> Done:
        self._firmware.detach(name, apqn)
        return Done()

    def list_hsms(self) -> messages.HsmList:
        return messages.HsmList(hsms=[answers.hsm(view) for view in self._firmware.machine_hsms()])

    def host_key(self) -> messages.HostKeyDocument:
        return messages.HostKeyDocument(pem=self._firmware.host_key_certificate())

    def host_keys(self) -> messages.HostKeyDocuments:
        return answers.host_key_documents(self._firmware.host_keys.documents())
