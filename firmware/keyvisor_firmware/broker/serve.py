"""One connection's thread: bytes from the socket, one answer each, bytes back; until the application or the protocol ends it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from keyvisor_firmware.broker.answers import ANSWERS
from keyvisor_firmware.broker.codec import pack_error, read_request
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.errors import Failed, Refused
from keyvisor_firmware.broker.framing import HEAD_LENGTH, frame, negotiate, parse_head
from keyvisor_firmware.broker.mechanism_parameters import Encoding

_RECEIVE: Final = 1 << 18

# The name of the call, and its refusal.
OnRefusal = Callable[[str, Refused], None]


class EndOfConnection(Exception):
    """The application closed its end."""


class Frames:
    """Cuts what a socket delivers into frames. Asks for as much as there is, so that one call mostly brings a whole one."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._buffer = bytearray()

    def take(self, length: int) -> bytes:
        """The next `length` bytes. Raises EndOfConnection, OSError."""
        while len(self._buffer) < length:
            received = self._channel.recv(_RECEIVE)
            if not received:
                raise EndOfConnection
            self._buffer += received
        taken = bytes(memoryview(self._buffer)[:length])
        del self._buffer[:length]
        return taken

    def next(self) -> tuple[int, bytes]:
        """The next call's code and body. Raises ProtocolError, EndOfConnection, OSError."""
        head = parse_head(self.take(HEAD_LENGTH))
        return head.code, self.take(head.options + head.body)[head.options :]


def serve(channel: socket.socket, connection: Connection, on_refusal: OnRefusal) -> None:
    """Answer until the connection ends. Raises ProtocolError for bytes that are not the protocol, OSError."""
    frames = Frames(channel)
    try:
        first = frames.take(1)[0]
        channel.sendall(bytes((negotiate(first),)))
        encoding = Encoding.of(first)
        while True:
            code, body = frames.next()
            with connection.lock:
                reply = answer(connection, body, encoding, on_refusal)
            channel.sendall(frame(code, reply))
    except EndOfConnection:
        pass
    finally:
        with connection.lock:
            connection.close()


def answer(connection: Connection, body: bytes, encoding: Encoding, on_refusal: OnRefusal) -> bytes:
    """The body that answers `body`. Raises ProtocolError."""
    try:
        call, values = read_request(body, encoding)
    except Failed as failed:
        return pack_error(failed.rv)
    try:
        return ANSWERS[call.id](connection, call, values)
    except Failed as failed:
        return pack_error(failed.rv)
    except Refused as refused:
        on_refusal(call.name, refused)
        return pack_error(refused.rv)
