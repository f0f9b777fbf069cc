"""One connection's threads: bytes from the socket, one answer each, bytes back; until the application or the protocol ends it.

One thread at a time reads, and answers what is quick while it does. Before it answers what may be slow it hands the
reading on, so that a key generation holds up nobody; replies then leave in the order in which they are ready
(pkcs11-rpc.md, section 2). Knows no HSM and no policy.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from keyvisor_firmware.broker.answers import ANSWERS
from keyvisor_firmware.broker.calls import Call, Role
from keyvisor_firmware.broker.codec import pack_error, read_request
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.errors import Failed, Refused
from keyvisor_firmware.broker.frames import EndOfConnection, Frames
from keyvisor_firmware.broker.framing import frame, negotiate
from keyvisor_firmware.broker.hot.board import SLOW_BODY
from keyvisor_firmware.broker.hot.loop import Lock
from keyvisor_firmware.broker.hot.memos import remember
from keyvisor_firmware.broker.hot.reading import HotFrames, Taken
from keyvisor_firmware.broker.mechanism_parameters import Encoding
from keyvisor_firmware.broker.slow_calls import SLOW, WITH_PRIVATE_KEY
from keyvisor_firmware.broker.turns import Baton, HotBaton, PlainBaton, Turns
from keyvisor_hsm.cryptoki import CKR
from keyvisor_hsm.cryptoki.flags import CKF_DONT_BLOCK

# The name of the call, and its refusal.
OnRefusal = Callable[[str, Refused], None]


class Service:
    """The threads of one connection. `run` is the first of them."""

    def __init__(self, channel: socket.socket, connection: Connection, on_refusal: OnRefusal) -> None:
        self._channel = channel
        self._connection = connection
        self._on_refusal = on_refusal
        hot = connection.hot
        self._frames: Frames | HotFrames
        self._sending: Lock
        baton: Baton
        if hot is None:
            self._frames, self._sending, baton = (
                Frames(channel, connection.limits),
                threading.Lock(),
                PlainBaton(),
            )
        else:
            self._frames = HotFrames(channel, connection, hot, on_refusal)
            self._sending, baton = hot.sending(), HotBaton(hot)
        self._turns = Turns(baton, connection.limits.operations_in_flight)
        self._encoding = Encoding.UP_TO_0_25_5

    def run(self) -> None:
        """Answer until the connection ends. Raises what ended it, but for the application's own closing."""
        try:
            first = self._frames.first()
            self._encoding = Encoding.of(first)
            self._channel.sendall(bytes((negotiate(first),)))
            self._work()
        except BaseException as end:
            self._finish(end)
        self._turns.join()
        with self._connection.lock:
            self._connection.close()
        if self._turns.end is not None and not isinstance(self._turns.end, EndOfConnection):
            raise self._turns.end

    def _work(self) -> None:
        """Read and answer in turns with the other threads. Whatever ends it ends them all, and is kept for `run`."""
        try:
            while self._turns.take():
                self._answer_until_slow()()
        except BaseException as end:
            self._finish(end)

    def _finish(self, end: BaseException) -> None:
        """Nobody reads any more, nobody waits for a slot event: there is nobody to tell."""
        self._turns.finish(end)
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        with self._connection.lock:
            self._connection.ended = True
            self._connection.notify()

    def _answer_until_slow(self) -> Callable[[], None]:
        """Read and answer; back with the first answer that may be slow, the reading handed on."""
        while True:
            request = self._frames.next()
            slow: Callable[[], None]
            if isinstance(request, Taken):
                slow = partial(self._answer_taken, request)
                if request.without_turn:
                    return slow
            elif (left := self._answer_quick(*request)) is None:
                continue
            else:
                slow = left
            if self._turns.hand_on(self._work):
                return slow
            slow()

    def _answer_quick(self, code: int, body: bytes) -> Callable[[], None] | None:
        """Answer what is quick; what may be slow is left to do."""
        read = self._read(code, body)
        if read is None:
            return None
        call, values = read
        if _waits(call, values) and not self._turns.room():
            # Whoever reads must not wait: nobody would see the application go.
            self._send(code, pack_error(CKR.HOST_MEMORY))
            return None
        answer = partial(self._answer, code, call, values, body)
        if self._may_be_slow(call, values, len(body)):
            return answer
        answer()
        return None

    def _may_be_slow(self, call: Call, values: tuple[Any, ...], length: int) -> bool:
        if call.name in SLOW or length > SLOW_BODY:
            return True
        if call.roles[:1] != (Role.SESSION,):
            return False
        session = self._connection.handles.sessions.get(values[0])
        if session is None:
            return False
        if call.name in WITH_PRIVATE_KEY and session.ticket.heavy:
            return True
        return session.ticket.inside  # it would wait for the call that is

    def _answer(self, code: int, call: Call, values: tuple[Any, ...], body: bytes) -> None:
        changes = self._connection.handles.board.changes
        reply = perform(self._connection, call, values, self._on_refusal)
        self._send(code, reply)
        remember(self._connection, call, values, body, self._encoding, reply, changes)

    def _answer_taken(self, taken: Taken) -> None:
        left = taken.perform()
        if left is not None and (read := self._read(*left)) is not None:
            code, body = left
            self._answer(code, *read, body)

    def _read(self, code: int, body: bytes) -> tuple[Call, tuple[Any, ...]] | None:
        """The call and its arguments; None where it has its answer already, since it cannot be taken."""
        try:
            return read_request(body, self._encoding, self._connection.limits)
        except Failed as failed:
            self._send(code, pack_error(failed.rv))
            return None

    def _send(self, code: int, body: bytes) -> None:
        with self._sending:
            self._channel.sendall(frame(code, body))


def _waits(call: Call, values: tuple[Any, ...]) -> bool:
    """Whether a call waits for something that may never be."""
    return call.name == "C_WaitForSlotEvent" and not values[0] & CKF_DONT_BLOCK


def serve(channel: socket.socket, connection: Connection, on_refusal: OnRefusal) -> None:
    """Answer until the connection ends. Raises ProtocolError for bytes that are not the protocol, OSError."""
    Service(channel, connection, on_refusal).run()


def answer(connection: Connection, body: bytes, encoding: Encoding, on_refusal: OnRefusal) -> bytes:
    """The body that answers `body`. Raises ProtocolError."""
    try:
        call, values = read_request(body, encoding, connection.limits)
    except Failed as failed:
        return pack_error(failed.rv)
    return perform(connection, call, values, on_refusal)


def perform(connection: Connection, call: Call, values: tuple[Any, ...], on_refusal: OnRefusal) -> bytes:
    """The body that answers a call."""
    try:
        with connection.lock:
            return ANSWERS[call.id](connection, call, values)
    except Failed as failed:
        return pack_error(failed.rv)
    except Refused as refused:
        on_refusal(call.name, refused)
        return pack_error(refused.rv)
