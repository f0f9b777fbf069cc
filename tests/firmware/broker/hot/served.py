"""A connection's threads between a socket and a recorder, as a gate runs them, in the test's own process."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from keyvisor_firmware.broker import serve as serving
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.errors import ProtocolError, Refused
from keyvisor_firmware.broker.hot.loop import HotLoop
from keyvisor_firmware.broker.limits import Limits

from ..encoder import HANDSHAKE, body, frame, read_reply
from ..in_process import SLOT_ID, Bench
from ..peer import SECONDS

LARGE = bytes(100_000)  # past what whoever reads answers itself


class Served:
    """An application in front of a connection's threads, the module a recorder. `end` is what ended the connection."""

    def __init__(self, bench: Bench, limits: Limits, path: HotLoop | None) -> None:
        self.bench = bench
        self.socket, self.broker = socket.socketpair()
        self.socket.settimeout(SECONDS)
        self.connection = Connection("payments", bench.slots, limits, path)
        self.end: BaseException | None = None
        self.code = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        def note(call: str, refused: Refused) -> None:
            self.bench.refused.append((call, refused))

        try:
            with self.broker:
                serving.serve(self.broker, self.connection, note)
        except (ProtocolError, OSError) as end:
            self.end = end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        self.join()

    def join(self) -> None:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    # --- bytes

    def begin(self) -> None:
        self.socket.sendall(b"\0")
        assert self.socket.recv(1) == b"\0"
        self.call("C_Initialize", HANDSHAKE, 0, b"\0")

    def frame(self, name: str, *values: Any, options: bytes = b"client") -> bytes:
        self.code += 1
        return frame(self.code, body(name, *values), options)

    def send(self, name: str, *values: Any) -> int:
        """The code of the request."""
        self.socket.sendall(self.frame(name, *values))
        return self.code

    def receive(self) -> tuple[int, bytes]:
        """The code of the next reply, and its body."""
        code, options, length = struct.unpack(">III", self._take(12))
        assert options == 0
        return code, self._take(length)

    def _take(self, length: int) -> bytes:
        taken = b""
        while len(taken) < length:
            more = self.socket.recv(length - len(taken))
            assert more, "the connection has ended"
            taken += more
        return taken

    def call(self, name: str, *values: Any) -> Any:
        code = self.send(name, *values)
        answered, reply = self.receive()
        assert answered == code
        return read_reply(name, reply)

    def session(self) -> int:
        """A session that the module has opened."""
        handle = self.call("C_OpenSession", SLOT_ID, 6)
        self.call("C_GenerateRandom", handle, 8)
        assert isinstance(handle, int)
        return handle

    def wait_until_read(self) -> None:
        """All that was sent has been received, and whoever reads waits for more."""
        while struct.unpack("i", fcntl.ioctl(self.broker, termios.FIONREAD, bytes(4)))[0]:
            os.sched_yield()


class Stopped:
    """A function of the module stops inside until it is let go."""

    def __init__(self, served: Served, name: str) -> None:
        self.entered, self.leave = threading.Semaphore(0), threading.Event()
        served.bench.calls.after[name] = self._stop

    def _stop(self) -> None:
        self.entered.release()
        assert self.leave.wait(SECONDS)

    def wait(self) -> None:
        assert self.entered.acquire(timeout=SECONDS)


Made = Callable[..., Served]
