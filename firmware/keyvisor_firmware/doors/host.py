"""The host's door: a method per row of HOST_ROUTES. It starts and stops guests and attaches HSMs, and is told
nothing of secrets, policies, refusals, master keys or who holds what.
"""

from __future__ import annotations

import threading
from typing import Protocol

from keyvisor_firmware.doors import answers
from keyvisor_firmware.doors.problems import TooLarge
from keyvisor_firmware.firmware import Firmware
from keyvisor_firmware.guests.instance import Instance
from keyvisor_firmware.views import GuestView
from keyvisor_guest.wire import messages
from keyvisor_guest.wire.messages import MAX_IMAGE, Done
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
        self._doors = guest_doors
        # A stop must not take away the door of the guest that was started under the same name meanwhile.
        self._lifecycle = threading.Lock()

    def list_guests(self) -> messages.GuestList:
        return messages.GuestList(guests=[answers.guest(view) for view in self._firmware.list_guests()])

    def start_guest(self, name: str, body: messages.StartGuest) -> messages.Guest:
        if len(body.image) > MAX_IMAGE:
            raise TooLarge(f"an image has at most {MAX_IMAGE} bytes, not {len(body.image)}")
        self._doors.require_possible(name)
        with self._lifecycle:
            instance = self._firmware.start_guest(name, body.image)
            try:
                self._doors.open(instance)
            except BaseException:
                self._firmware.stop_guest(name)
                raise
        return answers.guest(GuestView(name, instance.cuid, (), instance.started))

    def stop_guest(self, name: str) -> Done:
        with self._lifecycle:
            self._firmware.stop_guest(name)
            self._doors.close(name)
        return Done()

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
