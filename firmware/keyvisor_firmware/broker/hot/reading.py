"""Reads one connection through the hot loop: only what Python has to look at comes up here (hot_loop.c).

Knows what to do for each outcome of the loop, and no call but the one that a withheld answer is about.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from keyvisor_firmware.broker.calls import BY_ID
from keyvisor_firmware.broker.codec import pack_error, request_prefix
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.errors import ProtocolError, Refused
from keyvisor_firmware.broker.frames import EndOfConnection, Frame, set_times
from keyvisor_firmware.broker.framing import HEAD_LENGTH, frame, parse_head
from keyvisor_firmware.broker.hot.loop import Exchange, HotConnection, Outcome

_Pointer = Any  # to an Exchange
_SESSION: Final = 8  # bytes of its number in a body


class HotFrames:
    """The frames of one socket that the hot loop does not answer itself."""

    def __init__(
        self,
        channel: socket.socket,
        connection: Connection,
        hot: HotConnection,
        on_refusal: Callable[[str, Refused], None],
    ) -> None:
        self._channel = channel
        self._connection = connection
        self._hot = hot
        self._on_refusal = on_refusal
        self._turn = hot.loop.turn(hot.pointer)
        set_times(channel, connection.limits)
        hot.attach(channel.fileno())

    def first(self) -> int:
        """The byte that a connection begins with. Raises EndOfConnection, OSError."""
        while True:
            with contextlib.suppress(BlockingIOError):  # it may take its time
                if not (first := self._channel.recv(1)):
                    raise EndOfConnection
                return first[0]

    def next(self) -> Frame | Taken:
        """The next request for Python, or one for the loop that may be slow. Raises EndOfConnection, ProtocolError, OSError."""
        while True:
            outcome = self._hot.loop.next(self._hot.pointer)
            match outcome:
                case Outcome.COLD:
                    request = _request(self._turn.contents)
                    self._hot.loop.consume(self._hot.pointer)
                    return request
                case Outcome.SLOW:
                    if not (taken := self._hot.loop.take(self._hot.pointer)):
                        raise MemoryError
                    return Taken(self, taken)
                case _:
                    self.settle(outcome, self._turn)
                    self._hot.loop.consume(self._hot.pointer)

    def settle(self, outcome: int, exchange: _Pointer) -> None:
        """Do what an outcome other than COLD and SLOW leaves to do. Raises EndOfConnection, ProtocolError, OSError."""
        match outcome:
            case Outcome.ANSWERED:
                pass
            case Outcome.NOTIFY:
                with self._connection.lock:
                    self._connection.notify()
            case Outcome.CHANGED:
                self._confirm(exchange)
            case Outcome.ENDED:
                raise EndOfConnection
            case Outcome.TOO_SLOW:
                seconds = self._connection.limits.frame_seconds
                raise ProtocolError(f"a frame did not come whole within {seconds:g} s")
            case Outcome.BAD_HEAD:
                turn = exchange.contents
                parse_head(ctypes.string_at(turn.input + turn.begin, HEAD_LENGTH), self._connection.limits)
                raise ProtocolError("the hot loop does not take a frame's head")
            case Outcome.NO_MEMORY:
                raise MemoryError
            case _:
                raise OSError(-outcome, os.strerror(-outcome))

    def _confirm(self, exchange: _Pointer) -> None:
        """The state page changed while the call was inside the module: its answer may leave, or may not."""
        code, body = _request(exchange.contents)
        call = BY_ID[int.from_bytes(body[:4], "big")]
        at = len(request_prefix(call))
        refusal = self._connection.confirm_left(int.from_bytes(body[at : at + _SESSION], "big"))
        if refusal is None:
            if failed := self._hot.loop.send(self._hot.pointer, exchange):
                raise OSError(-failed, os.strerror(-failed))
            return
        self._on_refusal(call.name, refusal)
        with self._hot.sending():
            self._channel.sendall(frame(code, pack_error(refusal.rv)))

    def perform(self, exchange: _Pointer) -> Frame | None:
        """Have a slow request answered, without the turn; the request if it is for Python after all."""
        outcome = self._hot.loop.perform(self._hot.pointer, exchange)
        if outcome == Outcome.COLD:
            return _request(exchange.contents)
        self.settle(outcome, exchange)
        return None

    def drop(self, exchange: _Pointer) -> None:
        """Give an exchange back."""
        self._hot.loop.drop(exchange)


class Taken:
    """A request that was taken along by the thread that read it, since it may be slow."""

    def __init__(self, frames: HotFrames, exchange: _Pointer) -> None:
        self._frames = frames
        self._exchange = exchange

    def perform(self) -> Frame | None:
        """Answer it; the request if it is for Python after all. Once only. Raises as `HotFrames.settle`."""
        try:
            return self._frames.perform(self._exchange)
        finally:
            self._frames.drop(self._exchange)


def _request(exchange: Exchange) -> Frame:
    return exchange.code, ctypes.string_at(exchange.body, exchange.length)
