"""Serves a volume to the kernel: the device, the mount, and threads that answer.

Mounts among the mounts of this process (`private_mounts`), where it may. When the process ends, whatever the reason, the
kernel ends the file system: readers get an error. Knows nothing of what is asked.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
from pathlib import Path
from typing import Final, Self

from keyvisor_guest.containers import private_mounts
from keyvisor_guest.containers.errors import Unservable
from keyvisor_guest.containers.fuse.answers import VolumeAnswers
from keyvisor_guest.containers.fuse.protocol import BUFFER, error_reply, unique_of

__all__ = ["DEVICE", "FuseServer"]

DEVICE: Final = Path("/dev/fuse")
_THREADS: Final = 4
_GONE: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL


class FuseServer:
    """Serves from `with` to its end. Raises Unservable on entering where the device or the mount is not to be had."""

    def __init__(self, answers: VolumeAnswers, place: Path) -> None:
        self._answers = answers
        self._place = place
        self._device = -1
        self._woken, self._waking = -1, -1
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        try:
            self._device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise Unservable(f"`{DEVICE}` cannot be opened ({(error.strerror or '').lower()})") from error
        self._woken, self._waking = os.pipe2(os.O_CLOEXEC)
        try:
            private_mounts.mount_fuse(self._device, self._place)
        except BaseException:
            self._close()
            raise
        for _ in range(_THREADS):
            thread = threading.Thread(target=self._serve, name="fuse")
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        private_mounts.unmount(self._place)
        os.write(self._waking, b"\0")  # stays there: every thread sees it
        for thread in self._threads:
            thread.join()
        self._close()

    def _close(self) -> None:
        for descriptor in (self._device, self._woken, self._waking):
            os.close(descriptor)

    def _serve(self) -> None:
        waiting = select.poll()
        waiting.register(self._device, select.POLLIN)
        waiting.register(self._woken, select.POLLIN)
        while True:
            ready = dict(waiting.poll())
            if self._woken in ready or ready.get(self._device, 0) & _GONE:
                return
            try:
                request = os.read(self._device, BUFFER)
            except BlockingIOError:  # another thread was quicker
                continue
            except OSError:  # unmounted, or a request that was taken back
                continue
            reply = self._answer(request)
            if reply is not None:
                with contextlib.suppress(OSError):  # the asker is gone
                    os.write(self._device, reply)

    def _answer(self, request: bytes) -> bytes | None:
        try:
            return self._answers.answer(request)
        except (
            Exception
        ) as error:  # an error of ours is told, and nobody waits for an answer that never comes
            told = (type(error), error, error.__traceback__, threading.current_thread())
            threading.excepthook(threading.ExceptHookArgs(told))
            return error_reply(unique_of(request), errno.EIO)
