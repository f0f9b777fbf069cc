"""Runs one program to its end as a container's, and hands signals on to it: what asks this process to end asks the container.

`Signals` first: until the container runs, a signal ends this process in order. Then `supervise`: a signal goes to the
container's program; if that goes on for GRACE seconds, or a second one comes, the sandbox is killed. Children are in
process groups of their own, so that a terminal's Ctrl-C comes here only. Knows bubblewrap's answers, and no image.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
from pathlib import Path
from types import FrameType
from typing import Final

from keyvisor_guest.containers.errors import Unservable
from keyvisor_guest.containers.running.sandbox import Sandboxed

__all__ = ["GRACE", "Signals", "supervise"]

GRACE: Final = 10.0  # seconds
_ONE_SIGNAL: Final = 1.0  # seconds
_CAUGHT: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MAX_TOLD: Final = 64 << 10


class Signals:
    """Catches signals from `with` to its end. `waiting`: a descriptor to poll for their numbers, after `hold`."""

    def __init__(self) -> None:
        self.waiting, self._told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._holding = False
        self._before = {one: signal.getsignal(one) for one in _CAUGHT}

    def __enter__(self) -> Signals:
        for one in _CAUGHT:
            signal.signal(one, self._caught)
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)
        os.close(self.waiting)
        os.close(self._told)

    def hold(self) -> None:
        """From here on signals are told and end nothing: what follows, the putting away too, is done in order."""
        self._holding = True

    def _caught(self, number: int, _frame: FrameType | None) -> None:
        if not self._holding:
            raise SystemExit(128 + number)
        with contextlib.suppress(BlockingIOError):
            os.write(self._told, bytes([number]))


def supervise(sandboxed: Sandboxed, signals: Signals) -> int:
    """Run it; its exit code, 128 and the signal's number where one ended it. Raises Unservable where bubblewrap is missing."""
    options = os.memfd_create("options", 0)
    told, telling = os.pipe2(os.O_CLOEXEC)
    try:
        with os.fdopen(options, "wb", closefd=False) as file:
            file.write(sandboxed.passed())
        os.lseek(options, 0, os.SEEK_SET)
        words = ["bwrap", "--args", str(options), "--info-fd", str(telling), "--", *sandboxed.arguments]
        signals.hold()
        try:
            container = subprocess.Popen(words, pass_fds=(options, telling), process_group=0)
        except FileNotFoundError:
            raise Unservable("`bwrap` is not installed: it comes with the package `bubblewrap`") from None
        os.close(telling)
        telling = -1
        return _wait(container, told, signals)
    finally:
        for descriptor in (options, told, telling):
            if descriptor >= 0:
                os.close(descriptor)


def _wait(container: subprocess.Popen[bytes], told: int, signals: Signals) -> int:
    ended = os.pidfd_open(container.pid)
    try:
        waiting = select.poll()
        waiting.register(ended, select.POLLIN)
        waiting.register(signals.waiting, select.POLLIN)
        if not _ended(waiting, ended, None):
            handed_on = _hand_on(told, os.read(signals.waiting, 1)[0])
            # Whoever signals a process and then its group signals it twice at once, and means it once.
            waiting.unregister(signals.waiting)
            if not handed_on or not (
                _ended(waiting, ended, _ONE_SIGNAL) or _ended_in_time(waiting, ended, signals)
            ):
                container.kill()
        code = container.wait()
    except BaseException:
        container.kill()
        container.wait()
        raise
    finally:
        os.close(ended)
    return code if code >= 0 else 128 - code


def _ended(waiting: select.poll, ended: int, seconds: float | None) -> bool:
    """Whether it ended; False for a signal, and when the time is over."""
    ready = waiting.poll(None if seconds is None else seconds * 1000)
    return any(descriptor == ended for descriptor, _ in ready)


def _ended_in_time(waiting: select.poll, ended: int, signals: Signals) -> bool:
    with contextlib.suppress(BlockingIOError):
        os.read(signals.waiting, _MAX_TOLD)
    waiting.register(signals.waiting, select.POLLIN)
    return _ended(waiting, ended, GRACE)


def _hand_on(told: int, number: int) -> bool:
    """Signal the container's program. False where there is none yet."""
    if not select.select([told], [], [], 0)[0]:
        return False
    try:
        first = json.loads(os.read(told, _MAX_TOLD))["child-pid"]
        below = Path(f"/proc/{first}/task/{first}/children").read_text(encoding="ascii").split()
        for one in below[:1]:
            os.kill(int(one), number)
    except (OSError, ValueError, KeyError):
        return False
    return bool(below)
