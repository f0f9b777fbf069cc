"""A gate's process, as the daemon has it: started with what it inherits, asked, listened to, ended.

Knows no HSM and no state: what is asked is the gatekeeper's. One that does not answer as a gate does is ended.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeVar

from keyvisor_firmware.broker import control
from keyvisor_firmware.broker.errors import GateEnded, GateError
from keyvisor_firmware.broker.limits import DEFAULTS, Limits

_ANSWER_SECONDS: Final = 30.0  # how long a gate may take to open a partition
_INHERITED: Final = ("PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "COVERAGE_PROCESS_START")

_Answer = TypeVar("_Answer")


class Start(Protocol):
    """Starts the program of a guest's gate; the numbers are descriptors that it inherits. Raises OSError."""

    def __call__(
        self, *, guest: str, scratch: Path, listener: int, control: int, notices: int, page: int
    ) -> subprocess.Popen[bytes]: ...


@dataclass(frozen=True, slots=True)
class GateProgram:
    """The real one: `python -m keyvisor_firmware.broker.gate`. `limits` hold where `guest_limits` has no entry.

    `compiled`: it uses the compiled hot loop where that was built.
    """

    module: Path
    idle_seconds: float = 60.0
    limits: Limits = DEFAULTS
    guest_limits: Mapping[str, Limits] = field(default_factory=dict)
    compiled: bool = True

    def __call__(
        self, *, guest: str, scratch: Path, listener: int, control: int, notices: int, page: int
    ) -> subprocess.Popen[bytes]:
        # -P: nothing is imported from the directory that the daemon happens to be in.
        command = [sys.executable, "-P", "-m", "keyvisor_firmware.broker.gate", "--guest", guest]
        command += ["--module", str(self.module), "--scratch", str(scratch)]
        command += ["--idle-seconds", str(self.idle_seconds)]
        command += ["--limits", self.guest_limits.get(guest, self.limits).to_json()]
        if not self.compiled:
            command.append("--pure")
        command += ["--listener", str(listener), "--control", str(control)]
        command += ["--notices", str(notices), "--page", str(page)]
        return subprocess.Popen(
            command,
            pass_fds=(listener, control, notices, page),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is the daemon's to answer
        )


class GateProcess:
    """A gate that runs. Whoever gets an error from it has to `end` it."""

    def __init__(
        self, popen: subprocess.Popen[bytes], channel: socket.socket, notices: socket.socket
    ) -> None:
        self._popen = popen
        self._channel = channel
        self.notices = (
            notices  # to be waited for: readable when there is a refusal, or when the gate has ended
        )

    @classmethod
    def launch(cls, start: Start, *, guest: str, scratch: Path, listener: int, page: int) -> GateProcess:
        """Start one. Raises GateError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        heard, told = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, told:
            try:
                popen = start(
                    guest=guest,
                    scratch=scratch,
                    listener=listener,
                    control=theirs.fileno(),
                    notices=told.fileno(),
                    page=page,
                )
            except OSError as error:
                ours.close()
                heard.close()
                raise GateError(f"the gate cannot be started: {error}") from None
        ours.settimeout(_ANSWER_SECONDS)
        return cls(popen, ours, heard)

    def converse(
        self,
        request: control.Request,
        receive: Callable[[socket.socket], _Answer],
        points: int | None = None,
    ) -> _Answer:
        """Send a request, and with a picture the descriptor of its control points, and take its answer.

        Raises GateError; GateEnded if the gate is gone.
        """
        try:
            control.ask(self._channel, request, points)
        except OSError as error:
            raise GateEnded(f"the gate is gone: {error}") from None
        return receive(self._channel)

    def refusals(self) -> Iterator[control.Refusal]:
        """All refusals that are there. Raises GateError if what is there is none, GateEnded after a gate's last."""
        while True:
            try:
                refusal = control.receive_refusal(self.notices)
            except BlockingIOError:
                return
            except OSError as error:
                raise GateEnded(f"the gate is gone: {error}") from None
            if refusal is None:
                raise GateEnded("the gate has ended")
            yield refusal

    def end(self) -> None:
        """It runs no more when this returns."""
        self._popen.kill()
        self._popen.wait()
        self._channel.close()
        self.notices.close()


def _environment() -> dict[str, str]:
    """What a gate inherits: nothing that could point the module or the interpreter elsewhere than ours."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}
