"""The daemon's side of the gates: each guest's door, its state page, and when a process has to serve it.

A gate is started at the first connection, or when an association has to open a partition, and again when it died.
What a gate must know is kept here, so a gate can be lost at any time. Knows no policy file and no database; how a gate's
process is had and talked to is `gate_process`'s.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from keyvisor_firmware.broker import control
from keyvisor_firmware.broker.control_points_file import points_file, rules_named
from keyvisor_firmware.broker.errors import GateEnded, GateError
from keyvisor_firmware.broker.gate_process import GateProcess, GateProgram, Start
from keyvisor_firmware.broker.limits import DEFAULTS, Limits
from keyvisor_firmware.broker.listening import listening
from keyvisor_firmware.broker.state_page import MAX_HSMS, HsmState, StatePage, word
from keyvisor_hsm.cards import Apqn, ConfigurationData
from keyvisor_hsm.errors import PartitionUnusable
from keyvisor_hsm.partitions import PartitionKeys
from keyvisor_policy.control_points import NO_CONTROL_POINTS, ControlPoints

_KEPT_REFUSALS: Final = 256
_BACKLOG: Final = 1024
_PATIENCE: Final = 5  # starts in a row that may fail before a door is left alone for a moment
_QUICK: Final = 1.0  # seconds from one start to the next that count as in a row
_PAUSE: Final = 2.0  # seconds

_Answer = TypeVar("_Answer")

# Told of every refusal that a gate tells: the guest, the refusal, and the HSM that it is about with its state, where
# it is attached. It must not wait for anything: the door's lock is held.
OnRefusal = Callable[[str, control.Refusal, ConfigurationData | None, HsmState | None], None]


def nobody(
    _guest: str, _refusal: control.Refusal, _hsm: ConfigurationData | None, _state: HsmState | None
) -> None:
    """Nobody wants to know."""


@dataclass(slots=True)
class _Hsm:
    """One attached HSM: `index` in the state page, and what holds since `epoch`."""

    data: ConfigurationData
    index: int
    state: HsmState = HsmState.UNBOUND
    epoch: int = 0
    binding: int = 0
    keys: PartitionKeys | None = None
    rule: str | None = None  # the association rule that it is held through

    @property
    def word(self) -> int:
        return word(self.epoch, self.state)


class Gatekeeper:
    """One guest's door. Its methods may be called from any thread; each is whole before the next begins."""

    def __init__(
        self, guest: str, door: Path, partitions: Path, start: Start, on_refusal: OnRefusal = nobody
    ) -> None:
        self.guest = guest
        self.door = door
        self.listener = listening(door, _BACKLOG)
        self._partitions = partitions
        self._scratch = door.parent / "scratch"
        self._start = start
        self._on_refusal = on_refusal
        self._page = StatePage()
        self._points: ControlPoints = NO_CONTROL_POINTS
        self._points_file: int | None = None
        self._rules: dict[str, int] = {}  # those that the points name -> their place among them
        self._hsms: dict[Apqn, _Hsm] = {}
        self._epoch = 0
        self._lock = threading.RLock()
        self._process: GateProcess | None = None
        self._refusals: deque[control.Refusal] = deque(maxlen=_KEPT_REFUSALS)
        self._dropped = 0
        self._stopped = False
        self._started = float("-inf")
        self._wake, self._woken = socket.socketpair()
        self._watcher = threading.Thread(target=self._watch, name=f"gatekeeper {guest}", daemon=True)
        self._watcher.start()

    # --- what the firmware decides

    def attach(self, hsm: ConfigurationData) -> None:
        """The HSM becomes a slot of the guest, unbound. An HSM that is attached already gets its new data.

        Raises GateError if the guest has as many as a gate can keep apart.
        """
        with self._lock:
            known = self._hsms.get(hsm.apqn)
            if known is None:
                self._hsms[hsm.apqn] = _Hsm(hsm, self._free_index())
            else:
                known.data = hsm
            self._tell()

    def detach(self, apqn: Apqn) -> None:
        """The slot is gone."""
        with self._lock:
            self._publish(self._hsms[apqn], HsmState.UNBOUND)
            del self._hsms[apqn]
            self._tell()

    def bind(self, apqn: Apqn, *, rule: str | None = None) -> None:
        """Non-sensitive requests pass from now on. Raises PartitionUnusable; then the HSM is as it was.

        `rule` is the association rule that an accelerator is held through.
        """
        with self._lock:
            hsm = self._hsms[apqn]
            hsm.binding = self._epoch + 1
            self._grant(hsm, HsmState.BOUND, None, rule, wait=self._process is not None)

    def associate(
        self, apqn: Apqn, keys: PartitionKeys, *, rule: str | None = None, wait: bool = True
    ) -> None:
        """Sensitive requests pass from now on. Raises PartitionUnusable; then the HSM is as it was.

        `rule` is the association rule that allows it. With `wait` the partition is opened now, in a gate that is started
        for it if none runs; without, by the next gate that runs (after a restart of the daemon, when the partition is
        known to exist).
        """
        with self._lock:
            self._grant(self._hsms[apqn], HsmState.ASSOCIATED, keys, rule, wait=wait)
            if not wait:
                self._tell()

    def govern(self, points: ControlPoints, rules: Mapping[Apqn, str]) -> None:
        """From now on `points` decide what the guest may ask of its HSMs; `rules` are those that they are held through.

        Effective when this returns: what is asked afterwards is decided by these. An operation that was begun under
        others ends; a call that is inside the module goes on.
        """
        with self._lock:
            changed = points.digest != self._points.digest
            concerned = [hsm for apqn, hsm in self._hsms.items() if changed or hsm.rule != rules.get(apqn)]
            if changed:
                self._keep_points(points)
            for apqn, hsm in self._hsms.items():
                hsm.rule = rules.get(apqn)
            for hsm in concerned:
                if hsm.state is not HsmState.UNBOUND:
                    self._epoch += 1
                    hsm.epoch = self._epoch
            self._tell()
            for hsm in concerned:
                self._page.set(hsm.index, hsm.word)

    def _keep_points(self, points: ControlPoints) -> None:
        file = points_file(points) if points.points else None
        if self._points_file is not None:
            os.close(self._points_file)
        self._points, self._points_file = points, file
        self._rules = {rule: place for place, rule in enumerate(rules_named(points))}

    def unbind(self, apqn: Apqn) -> None:
        """Nothing passes any more when this returns: the page says so before the gate is told."""
        with self._lock:
            self._publish(self._hsms[apqn], HsmState.UNBOUND)
            self._tell()

    def mechanisms(self, apqn: Apqn) -> tuple[control.Mechanism, ...]:
        """What the module behind a bound HSM can do, by type. Starts the gate if none runs. Raises PartitionUnusable."""
        request = control.MechanismsOf(_slot(apqn))
        with self._lock:
            try:
                answer = self._with_gate(lambda: self._converse(request, control.receive_mechanisms))
            except GateError as error:
                raise PartitionUnusable(str(error)) from None
        if answer.failed is not None:
            raise PartitionUnusable(answer.failed)
        return answer.found

    def refusals(self) -> tuple[list[control.Refusal], int]:
        """What the gate refused, newest last, and how many older ones are not kept any more."""
        with self._lock:
            self._drain()
            return list(self._refusals), self._dropped

    def stop(self) -> None:
        """End the gate and close the door. Nothing may be asked of the gatekeeper afterwards."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            for hsm in self._hsms.values():
                self._publish(hsm, HsmState.UNBOUND)
            self._end()
            self._wake.send(b"\0")
        self._watcher.join()
        self.listener.close()
        self.door.unlink(missing_ok=True)
        self._page.close()
        if self._points_file is not None:
            os.close(self._points_file)
        self._wake.close()
        self._woken.close()

    # --- what the watcher sees

    def _watch(self) -> None:
        """Start a gate when somebody knocks and none runs; take in what a running one tells, until it ends."""
        quick_ends = 0
        while not self._stopped:
            process = self._process
            if not self._ready(self.listener if process is None else process.notices):
                continue
            if process is not None:
                self._look(process)
                continue
            quick_ends = quick_ends + 1 if time.monotonic() - self._started < _QUICK else 0
            if quick_ends > _PATIENCE:
                _say(self.guest, f"the gate ended {quick_ends} times in a row; its door waits {_PAUSE:g} s")
                self._ready(None, _PAUSE)
            try:
                with self._lock:
                    self._ensure_running()
            except GateError as error:
                _say(self.guest, str(error))

    def _ready(self, channel: socket.socket | None, seconds: float | None = None) -> bool:
        """Wait until there is something on `channel`; False if the watcher was woken for another reason."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        with contextlib.suppress(ValueError):  # closed meanwhile: whoever closed it wakes us
            if channel is not None:
                poll.register(channel, select.POLLIN)
        woken = dict(poll.poll(None if seconds is None else seconds * 1000))
        if self._woken.fileno() in woken:
            self._woken.recv(4096)
            return False
        return bool(woken)

    def _look(self, process: GateProcess) -> None:
        with self._lock:
            if self._process is process and not self._drain():
                self._end()

    def _ensure_running(self) -> None:
        """Start the gate unless it runs. Raises GateError."""
        if self._process is not None or self._stopped:
            return
        self._started = time.monotonic()
        self._clear_scratch()
        self._process = GateProcess.launch(
            self._start,
            guest=self.guest,
            scratch=self._scratch,
            listener=self.listener.fileno(),
            page=self._page.descriptor,
        )
        self._wake.send(b"\0")
        for apqn, why in self._exchange().items():
            _say(self.guest, f"HSM {apqn} is not ready: {why}")

    # --- inside

    def _grant(
        self, hsm: _Hsm, state: HsmState, keys: PartitionKeys | None, rule: str | None, *, wait: bool
    ) -> None:
        """The gate makes itself ready for the new word before the page shows it."""
        before = (hsm.state, hsm.epoch, hsm.keys, hsm.rule)
        self._epoch += 1
        hsm.state, hsm.epoch, hsm.keys, hsm.rule = state, self._epoch, keys, rule
        try:
            if wait:
                self._require_ready(hsm)
        except (GateError, PartitionUnusable) as error:
            hsm.state, hsm.epoch, hsm.keys, hsm.rule = before
            self._tell()
            raise PartitionUnusable(str(error)) from None
        self._page.set(hsm.index, hsm.word)

    def _require_ready(self, hsm: _Hsm) -> None:
        """Have a gate that is ready for the HSM."""
        failed = self._with_gate(self._exchange)
        if (why := failed.get(str(hsm.data.apqn))) is not None:
            raise PartitionUnusable(why)

    def _with_gate(self, ask: Callable[[], _Answer]) -> _Answer:
        """Ask a gate that runs. One that died, or left because it was idle, is replaced once. Raises GateError."""
        ran = self._process is not None
        try:
            self._ensure_running()
            return ask()
        except GateEnded:
            if not ran:
                raise
            self._ensure_running()
            return ask()

    def _publish(self, hsm: _Hsm, state: HsmState) -> None:
        self._epoch += 1
        hsm.state, hsm.epoch, hsm.keys, hsm.rule = state, self._epoch, None, None
        self._page.set(hsm.index, hsm.word)

    def _free_index(self) -> int:
        taken = {hsm.index for hsm in self._hsms.values()}
        free = next((index for index in range(MAX_HSMS) if index not in taken), None)
        if free is None:
            raise GateError(f"a guest has {MAX_HSMS} HSMs at most; detach one first")
        return free

    def _tell(self) -> None:
        """Send the picture to a gate that runs. One that does not take it is ended: the next one starts from it."""
        if self._process is not None:
            try:
                self._exchange()
            except GateError as error:
                _say(self.guest, f"the gate is ended: {error}")
                self._end()

    def _exchange(self) -> dict[str, str]:
        """Send the picture and take the answer: which HSMs are not ready, and why. Raises GateError."""
        if self._process is None:
            return {}
        return self._converse(self._picture(), control.receive_ready, self._points_file).failed

    def _converse(
        self,
        request: control.Request,
        receive: Callable[[socket.socket], _Answer],
        points: int | None = None,
    ) -> _Answer:
        """Send a request to the gate and take its answer. Raises GateError, and then has ended the gate."""
        process = self._process
        if process is None:
            raise GateError("no gate runs: the door is closed")
        try:
            return process.converse(request, receive, points)
        except GateError:
            self._end()
            raise

    def _picture(self) -> control.Picture:
        return control.Picture(
            tuple(self._hsm_picture(apqn, hsm) for apqn, hsm in sorted(self._hsms.items())),
            self._points.digest.hex(),
        )

    def _hsm_picture(self, apqn: Apqn, hsm: _Hsm) -> control.HsmPicture:
        return control.HsmPicture(
            apqn=str(apqn),
            slot=_slot(apqn),
            index=hsm.index,
            mode=hsm.data.mode.value,
            generation=hsm.data.generation.name,
            serial=hsm.data.serial,
            firmware=hsm.data.firmware,
            word=hsm.word,
            binding=hsm.binding,
            partition=None if hsm.keys is None else self._place(hsm.keys),
            rule=None if hsm.rule is None else self._rules.get(hsm.rule),
        )

    def _place(self, keys: PartitionKeys) -> control.PartitionPlace:
        path = self._partitions / keys.directory
        return control.PartitionPlace(str(path), keys.user_pin.decode(), keys.so_pin.decode())

    def _drain(self) -> bool:
        """Take in all refusals that are there. False if the gate has ended, or is to be ended."""
        if self._process is None:
            return True
        try:
            for refusal in self._process.refusals():
                self._dropped += len(self._refusals) == _KEPT_REFUSALS
                self._refusals.append(refusal)
                hsm = self._named(refusal.apqn)
                self._on_refusal(
                    self.guest, refusal, None if hsm is None else hsm.data, None if hsm is None else hsm.state
                )
        except GateError:
            return False
        return True

    def _named(self, apqn: str | None) -> _Hsm | None:
        return next((hsm for known, hsm in self._hsms.items() if str(known) == apqn), None)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.end()
        self._clear_scratch()
        self._wake.send(b"\0")  # the watcher may be about to look at what was just closed

    def _clear_scratch(self) -> None:
        """What a gate keeps for HSMs that are not associated. One that was killed could not clear it away."""
        shutil.rmtree(self._scratch, ignore_errors=True)


class Gatekeepers:
    """Makes the doors of all guests. `module` is the PKCS#11 module, `partitions` the directory of the key partitions.

    `limits` hold for the applications of every guest that `guest_limits` does not name. `compiled`: gates use the
    compiled hot loop where it was built.
    """

    def __init__(
        self,
        *,
        run_directory: Path,
        partitions: Path,
        module: Path,
        idle_seconds: float = 60.0,
        limits: Limits = DEFAULTS,
        guest_limits: Mapping[str, Limits] | None = None,
        compiled: bool = True,
        on_refusal: OnRefusal = nobody,
    ) -> None:
        self._run_directory = run_directory
        self._partitions = partitions
        self._on_refusal = on_refusal
        self._program = GateProgram(module, idle_seconds, limits, guest_limits or {}, compiled)

    def open(self, guest: str) -> Gatekeeper:
        """Make the guest's door. Raises OSError."""
        home = self._run_directory / "guests" / guest
        self._run_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.parent.mkdir(mode=0o700, exist_ok=True)
        home.mkdir(mode=0o700, exist_ok=True)
        return Gatekeeper(guest, home / "pkcs11.sock", self._partitions, self._program, self._on_refusal)


def _slot(apqn: Apqn) -> int:
    """The id that applications know the HSM by."""
    return apqn.card << 16 | apqn.domain


def _say(guest: str, text: str) -> None:
    print(f"keyvisor gatekeeper guest={guest} {text}", file=sys.stderr, flush=True)
