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
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Final

from keyvisor_guest.containers.errors import Unservable
from keyvisor_guest.containers.running.sandbox import Sandboxed

__all__ = ["GRACE", "Signals", "check_bubblewrap", "supervise"]

_BUBBLEWRAP: Final = "bwrap"
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

    def forget(self) -> None:
        """Nothing that was told so far is to be told."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.waiting, _MAX_TOLD)

    def _caught(self, number: int, _frame: FrameType | None) -> None:
        if not self._holding:
            raise SystemExit(128 + number)
        with contextlib.suppress(BlockingIOError):
            os.write(self._told, bytes([number]))


def check_bubblewrap() -> None:
    """Raises Unservable where it is not installed."""
    if shutil.which(_BUBBLEWRAP) is None:
        raise Unservable(f"`{_BUBBLEWRAP}` is not installed: it comes with the package `bubblewrap`")


def supervise(sandboxed: Sandboxed, signals: Signals) -> int:
    """Run it; its exit code, 128 and the signal's number where one ended it."""
    options = os.memfd_create("options", 0)
    told, telling = os.pipe2(os.O_CLOEXEC)
    try:
        with os.fdopen(options, "wb", closefd=False) as file:
            file.write(sandboxed.passed())
        os.lseek(options, 0, os.SEEK_SET)
        words = [_BUBBLEWRAP, "--args", str(options), "--info-fd", str(telling), "--", *sandboxed.arguments]
        signals.hold()
        container = subprocess.Popen(words, pass_fds=(options, telling), process_group=0)
        os.close(telling)
        telling = -1
        return _wait(container, told, signals)
    finally:
        for descriptor in (options, told, telling):
            if descriptor >= 0:
                os.close(descriptor)


def _wait(container: subprocess.Popen[bytes], told: int, signals: Signals) -> int:
    with ExitStack() as undo:
        undo.callback(_kill, container)
        ended = _watched(container.pid, undo)
        first = _first_process(told)
        last = None if first is None else _watched(first, undo)
        if not _wait_for([ended, signals.waiting], ended, None):
            handed_on = first is not None and _hand_on(first, os.read(signals.waiting, 1)[0])
            # Whoever signals a process and then its group signals it twice at once, and means it once.
            if handed_on and not _wait_for([ended], ended, _ONE_SIGNAL):
                signals.forget()
                _wait_for([ended, signals.waiting], ended, GRACE)
            container.kill()
        code = container.wait()
        if last is not None:  # the sandbox's first process ends when all others in it have
            _wait_for([last], last, GRACE)
    return code if code >= 0 else 128 - code


def _kill(container: subprocess.Popen[bytes]) -> None:
    container.kill()
    container.wait()


def _watched(pid: int, undo: ExitStack) -> int | None:
    """A descriptor that can be read when the process has ended; None where it has."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    undo.callback(os.close, descriptor)
    return descriptor


def _wait_for(descriptors: Sequence[int | None], ended: int | None, seconds: float | None) -> bool:
    """Whether it ended; False for another of the descriptors, and when the time is over."""
    if ended is None:
        return True
    waiting = select.poll()
    for one in descriptors:
        if one is not None:
            waiting.register(one, select.POLLIN)
    return any(one == ended for one, _ in waiting.poll(None if seconds is None else seconds * 1000))


def _first_process(told: int) -> int | None:
    """The sandbox's first process, as bubblewrap tells it (`--info-fd`); None where there is none."""
    data = b""
    while not data.rstrip().endswith(b"}") and (part := os.read(told, _MAX_TOLD)):
        data += part
    try:
        return int(json.loads(data)["child-pid"])
    except (ValueError, KeyError, TypeError):
        return None


def _hand_on(first: int, number: int) -> bool:
    """Signal the container's program, which is the first process's child. False where there is none yet."""
    try:
        below = Path(f"/proc/{first}/task/{first}/children").read_text(encoding="ascii").split()
        for one in below[:1]:
            os.kill(int(one), number)
    except OSError:
        return False
    return bool(below)
