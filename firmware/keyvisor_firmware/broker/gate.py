"""The process that serves one guest's PKCS#11 door: `python -m keyvisor_firmware.broker.gate`, started by the daemon.

It inherits the door's listening socket, two channels to the daemon and the page with the states of the guest's
HSMs. It ends when the daemon is gone, or when it was idle for a while. Of the policy it knows the control points, which
the daemon hands it; it knows no policy file and no database.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import resource
import secrets
import shutil
import socket
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from keyvisor_firmware.broker import control
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.control_points import Control, served
from keyvisor_firmware.broker.control_points_file import read_points, rules_named
from keyvisor_firmware.broker.errors import BrokerError, Refused
from keyvisor_firmware.broker.hot.loop import HotLoop, load
from keyvisor_firmware.broker.key_store import KeyStore, KeyStores
from keyvisor_firmware.broker.limits import Limits
from keyvisor_firmware.broker.peers import require_own_peer
from keyvisor_firmware.broker.serve import serve
from keyvisor_firmware.broker.slots import Description, Grant, Slot
from keyvisor_firmware.broker.state_page import HsmState, map_states, state_of
from keyvisor_hsm.cryptoki.mechanism_list import MechanismInfo
from keyvisor_hsm.errors import ModuleRefused, PartitionUnusable
from keyvisor_hsm.partitions import PartitionKeys
from keyvisor_policy.control_points import NO_CONTROL_POINTS, ControlPoints

_REFUSAL_ROOM: Final = 4096  # bytes of reason that travel to the daemon
_CORE_FILTER: Final = Path("/proc/self/coredump_filter")
_OTHER_DESCRIPTORS: Final = 128  # that the process may need besides those of its connections


class Gate:
    """All that the connections of one guest share."""

    def __init__(
        self,
        guest: str,
        library: Path,
        scratch: Path,
        words: memoryview,
        notices: socket.socket,
        limits: Limits,
        compiled: HotLoop | None = None,
    ) -> None:
        self.guest = guest
        self._compiled = compiled
        self.limits = limits
        self.slots: dict[int, Slot] = {}
        self.connections: set[Connection] = set()
        self._changing = threading.Lock()
        self._stores = KeyStores(library)
        self._points: ControlPoints = NO_CONTROL_POINTS
        self._rules: tuple[str, ...] = ()
        self._words = words
        self._notices = notices
        # What an HSM has that is bound and not associated: a token without keys, which ends with this process.
        self._scratch = scratch
        self._scratch_keys = PartitionKeys(
            "scratch", secrets.token_hex(16).encode(), secrets.token_hex(16).encode()
        )

    # --- what the daemon says

    def adopt(self, picture: control.Picture) -> dict[str, str]:
        """Make the slots as the daemon sees them. Answers which HSMs could not be made ready, and why."""
        with self._changing:
            return self._adopt(picture)

    def answer(
        self, request: control.Request, points: int | None = None
    ) -> control.Ready | control.Mechanisms:
        """Do what the daemon says. `points` is the descriptor that came with it."""
        if isinstance(request, control.Picture):
            if request.points != self._points.digest.hex():
                self._points = NO_CONTROL_POINTS if points is None else read_points(points)
                self._rules = rules_named(self._points)
            return control.Ready(self.adopt(request))
        with self._changing:  # nobody takes the HSM's keys away meanwhile
            return self._mechanisms(request.slot)

    def _mechanisms(self, slot_id: int) -> control.Mechanisms:
        slot = self.slots.get(slot_id)
        grant = None if slot is None else slot.grant
        if grant is None:
            return control.Mechanisms((), "the gate is not ready for it")
        try:
            found = grant.keys.mechanisms()
        except ModuleRefused as error:
            return control.Mechanisms((), f"the module lists no mechanisms: {error}")
        return control.Mechanisms(
            tuple(_mechanism(grant.control, type_, found[type_]) for type_ in sorted(found))
        )

    def _adopt(self, picture: control.Picture) -> dict[str, str]:
        failed = {}
        for slot_id in set(self.slots) - {hsm.slot for hsm in picture.hsms}:
            self._drop(self.slots.pop(slot_id))
        for hsm in picture.hsms:
            slot = self.slots.get(hsm.slot) or self._attach(hsm)
            slot.description = _description(hsm)
            try:
                self._change(slot, hsm)
            except PartitionUnusable as error:
                failed[hsm.apqn] = str(error)
        self._tell_connections()
        return failed

    def _tell_connections(self) -> None:
        """Whoever waits for a slot event looks again."""
        for connection in list(self.connections):
            with connection.lock:
                connection.notify()

    def _attach(self, hsm: control.HsmPicture) -> Slot:
        slot = Slot(hsm.slot, _description(hsm), hsm.index, self._words)
        self.slots[hsm.slot] = slot
        return slot

    def _change(self, slot: Slot, hsm: control.HsmPicture) -> None:
        """Be ready for the state that the page shows, or will show as soon as the daemon has its answer."""
        wanted = None
        if state_of(hsm.word) is not HsmState.UNBOUND:
            rule = None if hsm.rule is None else self._rules[hsm.rule]
            wanted = slot.offered(hsm.word) or Grant(
                hsm.word, hsm.binding, self._store(hsm), Control(self._points, rule)
            )
        self._leave(slot, slot.offer(wanted))

    def _store(self, hsm: control.HsmPicture) -> KeyStore:
        place = hsm.partition
        if place is None:
            return self._stores.acquire(self._scratch, self._scratch_keys)
        path = Path(place.path)
        keys = PartitionKeys(path.name, place.user_pin.encode(), place.so_pin.encode())
        return self._stores.acquire(path, keys)

    def _drop(self, slot: Slot) -> None:
        self._leave(slot, slot.offer(None))

    def _leave(self, slot: Slot, grants: tuple[Grant, ...]) -> None:
        """Close what connections hold under these grants, aside: a call may still be inside the module.

        Nothing waits for it, since the state page has already revoked them.
        """
        for grant in grants:
            leave = partial(self._leave_store, slot, grant)
            threading.Thread(target=self._stores.release, args=(grant.keys, leave), daemon=True).start()

    def _leave_store(self, slot: Slot, grant: Grant) -> None:
        for connection in list(self.connections):
            with connection.lock:
                connection.leave_store(slot, grant)

    # --- what the applications do

    def accept(self, listener: socket.socket, idle_seconds: float) -> None:
        """Take connections until nobody was there for `idle_seconds`."""
        listener.settimeout(idle_seconds)
        room = _room_for_connections(self.limits.connections)
        while True:
            try:
                channel, _ = listener.accept()
            except TimeoutError:
                if not self.connections:
                    return
                continue
            channel.settimeout(None)
            if len(self.connections) >= room:
                self.log(f"a connection was turned away: {room} are open")
                channel.close()
                continue
            connection = Connection(self.guest, self.slots, self.limits, self._compiled)
            self.connections.add(connection)
            threading.Thread(target=self._serve, args=(channel, connection), daemon=True).start()

    def _serve(self, channel: socket.socket, connection: Connection) -> None:
        try:
            with channel:
                require_own_peer(channel)
                serve(channel, connection, self._refused)
        except BrokerError as error:
            self.log(f"a connection was closed: {error}")
        except OSError:
            pass  # the application went away in the middle of something
        finally:
            self.connections.discard(connection)

    def _refused(self, call: str, refused: Refused) -> None:
        """Tell the daemon before the application is answered, so that whoever asks why finds it there."""
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        because = None if refused.because is None else control.within_bounds(refused.because)
        told = control.Refusal(
            at, refused.apqn, call, f"CKR_{refused.rv.name}", refused.reason[:_REFUSAL_ROOM], because
        )
        with contextlib.suppress(OSError):  # a daemon that does not listen must not hold up the guest
            control.send(self._notices, told, socket.MSG_DONTWAIT)

    def log(self, text: str) -> None:
        """One line on standard error."""
        print(f"keyvisor gate guest={self.guest} {text}", file=sys.stderr, flush=True)

    def end(self) -> NoReturn:
        """End the process and leave nothing behind.

        Not while a partition is being opened: the module rewrites its token then, and half a token is none. Threads
        may be inside the module otherwise; the interpreter's orderly end would wait for them, or free what they use.
        """
        with self._changing:
            shutil.rmtree(self._scratch, ignore_errors=True)
            os._exit(0)


def _description(hsm: control.HsmPicture) -> Description:
    return Description(hsm.apqn, hsm.mode, hsm.generation, hsm.serial, hsm.firmware)


def _mechanism(allowed: Control, type_: int, info: MechanismInfo) -> control.Mechanism:
    flags = served(allowed, type_, info.flags)
    if flags is None:
        return control.Mechanism(type_, *info, allowed=False)
    return control.Mechanism(type_, info.min_key_size, info.max_key_size, flags)


def _leave_no_core() -> None:
    """A module that crashes takes this process along, whose memory holds keys and PINs: none of it goes to a file.

    The limit does not hold where the kernel pipes cores to a program, so no mapping is to be in a core either.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # a kernel without core dumps has no filter for them
        _CORE_FILTER.write_text("0", encoding="ascii")


def _room_for_connections(most: int) -> int:
    """How many connections this process can hold, `most` or fewer: each takes a descriptor, the module some for its files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return most if soft == resource.RLIM_INFINITY else min(most, soft - _OTHER_DESCRIPTORS)


def _obey(gate: Gate, channel: socket.socket) -> None:
    """Do what the daemon says, until it is gone."""
    while (received := control.receive_request(channel)) is not None:
        _answer(gate, channel, *received)


def _answer(gate: Gate, channel: socket.socket, request: control.Request, points: int | None) -> None:
    try:
        answer = gate.answer(request, points)
    finally:
        if points is not None:
            os.close(points)
    control.send(channel, answer)


def main() -> None:
    """Serve until idle, or until the daemon is gone. Every descriptor comes by number."""
    _leave_no_core()
    parser = argparse.ArgumentParser(description="serves one guest's PKCS#11 door; started by the daemon")
    parser.add_argument("--guest", required=True)
    parser.add_argument("--module", required=True, type=Path)
    parser.add_argument("--scratch", required=True, type=Path)
    parser.add_argument("--idle-seconds", required=True, type=float)
    parser.add_argument("--limits", required=True, type=Limits.from_json)
    for name in ("listener", "control", "notices", "page"):
        parser.add_argument(f"--{name}", required=True, type=int)
    parser.add_argument("--pure", action="store_true", help="leave the compiled hot loop alone")
    options = parser.parse_args()

    channel = socket.socket(fileno=options.control)
    gate = Gate(
        options.guest,
        options.module,
        options.scratch,
        map_states(options.page),
        socket.socket(fileno=options.notices),
        options.limits,
        None if options.pure else load(),
    )
    ended = threading.Event()

    def until_idle() -> None:
        try:
            gate.accept(socket.socket(fileno=options.listener), options.idle_seconds)
        finally:
            ended.set()  # a gate that takes no connections any more makes room for another

    def until_daemon_ends() -> None:
        try:
            _obey(gate, channel)
        finally:
            ended.set()

    # No connection is taken before the first picture is there.
    first = control.receive_request(channel)
    if first is not None:
        _answer(gate, channel, *first)
        threading.Thread(target=until_idle, daemon=True).start()
        threading.Thread(target=until_daemon_ends, daemon=True).start()
        ended.wait()
    gate.end()


if __name__ == "__main__":
    main()
