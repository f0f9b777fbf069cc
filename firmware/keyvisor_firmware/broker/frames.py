"""Cuts what a socket delivers into frames, within a time: a frame that has begun must come whole.

Asks for as much as there is, so that one receive mostly brings a whole frame. Knows nothing of what is in one.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Final

from keyvisor_firmware.broker.errors import ProtocolError
from keyvisor_firmware.broker.framing import HEAD_LENGTH, parse_head
from keyvisor_firmware.broker.limits import Limits

_RECEIVE: Final = 1 << 18  # bytes


Frame = tuple[int, bytes]  # the client's number for the call, and the body


class EndOfConnection(Exception):
    """The application closed its end."""


class Frames:
    """The frames of one socket, each within `limits.frame_seconds` from its first byte to its last."""

    def __init__(self, channel: socket.socket, limits: Limits) -> None:
        self._channel = channel
        self._limits = limits
        self._seconds = limits.frame_seconds
        self._buffer = bytearray()
        set_times(channel, limits)

    def first(self) -> int:
        """The byte that a connection begins with. Raises as `take`."""
        return self.take(1)[0]

    def take(self, length: int) -> bytes:
        """The next `length` bytes. Raises EndOfConnection, ProtocolError when they take too long, OSError."""
        if len(self._buffer) < length:
            self._fill(length)
        taken = bytes(memoryview(self._buffer)[:length])
        del self._buffer[:length]
        return taken

    def next(self) -> Frame:
        """The next call's code and body. Raises as `take`, and ProtocolError for a head out of bounds."""
        self._fill(HEAD_LENGTH)
        # The head stays in the buffer: what follows it is the rest of a frame that has begun.
        head = parse_head(bytes(self._buffer[:HEAD_LENGTH]), self._limits)
        before = HEAD_LENGTH + head.options
        return head.code, self.take(before + head.body)[before:]

    def _fill(self, length: int) -> None:
        deadline = time.monotonic() + self._seconds if self._buffer else None
        while len(self._buffer) < length:
            try:
                received = self._channel.recv(_RECEIVE)
            except BlockingIOError:  # nothing came for a while, which is no matter between two frames
                received = None
            if received == b"":
                raise EndOfConnection
            self._buffer += received or b""
            if not self._buffer:
                continue
            now = time.monotonic()
            deadline = deadline or now + self._seconds
            if now >= deadline and len(self._buffer) < length:
                raise ProtocolError(f"a frame did not come whole within {self._seconds:g} s")


def set_times(channel: socket.socket, limits: Limits) -> None:
    """The kernel wakes whoever waits for a socket; nothing is asked of the clock while frames come whole."""
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(limits.frame_seconds))
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(limits.frame_seconds))


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("@ll", whole, int((seconds - whole) * 1e6))
