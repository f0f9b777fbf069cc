"""Connections that did C_Initialize and nothing else, without a client process for each."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.firmware.broker.encoder import HANDSHAKE, body, frame

_PATIENCE: Final = 120.0  # seconds for an answer: a gate may have to be started, behind many others
_VERSION: Final = 0  # of the protocol: what every server speaks
_HEAD: Final = struct.Struct(">III")  # the call's code, the lengths of options and body


@dataclass
class Opened:
    """Connections that were tried: those that stand, how long each took in milliseconds, and why others failed."""

    sockets: list[socket.socket] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def open(self, door: Path) -> None:
        """One more connection; a failure is noted."""
        begin = time.perf_counter()
        try:
            self.sockets.append(connect(door))
        except OSError as error:
            self.failures.append(str(error))
        else:
            self.milliseconds.append((time.perf_counter() - begin) * 1000)

    def close(self) -> None:
        """End them all."""
        for one in self.sockets:
            one.close()


@contextlib.contextmanager
def connections(door: Path, count: int) -> Iterator[Opened]:
    """So many connections, one after another; they end with the block."""
    opened = Opened()
    try:
        for _ in range(count):
            opened.open(door)
        yield opened
    finally:
        opened.close()


def connect(door: Path) -> socket.socket:
    """A connection that did C_Initialize. Raises OSError."""
    channel = socket.socket(socket.AF_UNIX)
    try:
        channel.settimeout(_PATIENCE)
        channel.connect(str(door))
        content = body("C_Initialize", HANDSHAKE, 0, b"\0")
        channel.sendall(bytes((_VERSION,)) + frame(1, content))
        _receive(channel, 1)
        _, options, length = _HEAD.unpack(_receive(channel, _HEAD.size))
        _require_ok(_receive(channel, options + length)[options:], content)
    except BaseException:
        channel.close()
        raise
    return channel


def _require_ok(reply: bytes, request: bytes) -> None:
    if reply[:4] != request[:4]:  # the call's id; an error's reply has the id 0
        raise ConnectionError("C_Initialize was refused")


def _receive(channel: socket.socket, length: int) -> bytes:
    received = b""
    while len(received) < length:
        some = channel.recv(length - len(received))
        if not some:
            raise ConnectionError("the connection was closed")
        received += some
    return received
