"""All doors of the daemon: the host's and the operator's for as long as it runs, a guest's for as long as its guest."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine
from functools import partial
from pathlib import Path

from keyvisor_firmware.audit import Log
from keyvisor_firmware.doors.application import application
from keyvisor_firmware.doors.guest import GuestHandlers
from keyvisor_firmware.doors.host import HostHandlers
from keyvisor_firmware.doors.operator import OperatorHandlers
from keyvisor_firmware.doors.server import Door
from keyvisor_firmware.errors import Conflict
from keyvisor_firmware.firmware import Firmware
from keyvisor_firmware.guests.instance import Instance
from keyvisor_guest.errors import StateDirectoryUnusable
from keyvisor_guest.state_directory import (
    closed_mark,
    guest_directory,
    guest_socket,
    host_socket,
    operator_socket,
    pkcs11_socket,
    run_directory,
)
from keyvisor_guest.wire.messages import DOORS


class Doors:
    """Made within the daemon's event loop. `open` and `close` are for other threads (doors.host.GuestDoors)."""

    def __init__(self, state: Path, firmware: Firmware, log: Log) -> None:
        self._state = state
        self._firmware = firmware
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._doors: dict[str, Door] = {}
        self._guests: dict[str, Door] = {}

    async def open_all(self, guests: tuple[Instance, ...]) -> None:
        """Open every door, the host's last: who can come in there finds all others. Raises OSError."""
        self._clear(guests)
        for instance in guests:
            await self._open_guest(instance, is_open=self._firmware.is_open(instance.id))
        await self._open("operator", operator_socket(self._state), OperatorHandlers(self._firmware))
        await self._open("host", host_socket(self._state), HostHandlers(self._firmware, self))

    async def close_all(self) -> None:
        """Close every door."""
        doors = [*self._doors.values(), *self._guests.values()]
        self._doors.clear()
        self._guests.clear()
        await asyncio.gather(*(door.close() for door in doors))

    # --- for the host's door

    def require_possible(self, name: str) -> None:
        """Raises Conflict where the paths of the guest's doors would be too long for Unix sockets."""
        try:
            guest_socket(self._state, name)
            pkcs11_socket(self._state, name)
        except StateDirectoryUnusable as error:
            raise Conflict(f"guest `{name}` needs a shorter name, or the daemon one: {error}") from None

    def open(self, instance: Instance) -> None:
        """Make the door of a guest that has just started. Raises OSError."""
        self._wait(self._open_guest(instance, is_open=not instance.opens_after_lock))

    def close(self, name: str) -> None:
        """The guest's door and its directory are gone when this returns."""
        self._wait(self._close_guest(name))

    def _wait(self, what: Coroutine[object, object, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result()

    # --- in the event loop

    async def _open_guest(self, instance: Instance, *, is_open: bool) -> None:
        guest_directory(self._state, instance.name).mkdir(mode=0o700, parents=True, exist_ok=True)
        # Programs that are to run in the guest look for the mark; nothing is bound for them either way.
        mark = closed_mark(self._state, instance.name)
        if is_open:
            # A daemon that ended between the lock and the mark left it, and a start that failed did.
            mark.unlink(missing_ok=True)
        else:
            mark.touch(mode=0o600)
        handlers = GuestHandlers(self._firmware, instance.id, partial(mark.unlink, missing_ok=True))
        app = application("guest", DOORS["guest"], handlers, self._log)
        self._guests[instance.name] = await Door.open(guest_socket(self._state, instance.name), app)

    async def _close_guest(self, name: str) -> None:
        door = self._guests.pop(name, None)
        if door is not None:
            await door.close()
        shutil.rmtree(guest_directory(self._state, name), ignore_errors=True)

    async def _open(self, name: str, path: Path, handlers: object) -> None:
        app = application(name, DOORS[name], handlers, self._log)
        self._doors[name] = await Door.open(path, app)

    def _clear(self, guests: tuple[Instance, ...]) -> None:
        """What a daemon that crashed left of guests that do not run."""
        run_directory(self._state).mkdir(mode=0o700, exist_ok=True)
        names = {instance.name for instance in guests}
        for left in (run_directory(self._state) / "guests").glob("*"):
            if left.name not in names:
                shutil.rmtree(left, ignore_errors=True)
