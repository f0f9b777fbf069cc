"""The compiled hot loop as Python calls it (hot_loop.c): loaded where it was built, one connection's half, its way to read.

Each call lets the interpreter go, so that the loop answers request after request while other threads work. Where there was
no compiler there is no library, and `load` says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

from keyvisor_firmware.broker.hot.board import BOARD_CELLS, TICKET_CELLS, Board, Ticket
from keyvisor_firmware.broker.hot.memos import MEMO_CELLS, Memo
from keyvisor_firmware.broker.hot.tables import ROW_SIZE, TABLE

LIBRARY: Final = Path(__file__).with_name("hot_loop.so")

_INTERFACE: Final = 1  # grows with every change of a function's arguments
_LAYOUT: Final = (
    _INTERFACE << 48 | ROW_SIZE << 32 | 8 * MEMO_CELLS << 16 | 8 * TICKET_CELLS << 8 | 8 * BOARD_CELLS
)
_HEAD: Final = 12  # bytes of a frame's head


class Outcome(enum.IntEnum):
    """What the loop leaves to do. Numbers below zero are those of an error of the operating system."""

    ANSWERED = 0
    COLD = 1
    SLOW = 2
    CHANGED = 3
    NOTIFY = 4
    ENDED = 5
    BAD_HEAD = 6
    TOO_SLOW = 7
    NO_MEMORY = 8


class HotLoopMissing(Exception):
    """There is no compiled hot loop here; the text says why, and the way out."""


class Lock(Protocol):
    """What the monitor of a connection is, compiled or not."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


class Exchange(ctypes.Structure):
    """struct exchange."""

    _fields_ = (
        ("input", ctypes.c_void_p),
        ("in_room", ctypes.c_uint64),
        ("begin", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("frame", ctypes.c_uint64),
        ("output", ctypes.c_void_p),
        ("out_room", ctypes.c_uint64),
        ("out_length", ctypes.c_uint64),
        ("body", ctypes.c_void_p),
        ("length", ctypes.c_uint64),
        ("code", ctypes.c_uint64),
    )


_AN_EXCHANGE: Final = ctypes.POINTER(Exchange)


_OF_ANOTHER_RELEASE: Final = "the compiled hot loop is of another release: run `make setup` again"


class HotLoop:
    """The library's functions."""

    def __init__(self, path: Path = LIBRARY) -> None:
        """Raises HotLoopMissing."""
        try:
            free = ctypes.CDLL(str(path))  # lets the interpreter go while it works
            quick = ctypes.PyDLL(str(path))  # does not, for what takes a moment
        except OSError:
            raise HotLoopMissing(
                "the compiled hot loop is not built: install a C compiler and run `make setup` again"
            ) from None
        number, pointer, size = ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64
        layout = _bound(quick, "kv_layout", size)
        if layout() != _LAYOUT:
            raise HotLoopMissing(_OF_ANOTHER_RELEASE)
        self.open_ = _bound(quick, "kv_open", pointer, pointer, pointer)
        self.attach = _bound(quick, "kv_attach", None, pointer, number)
        self.close = _bound(quick, "kv_close", None, pointer)
        self.monitor = _bound(quick, "kv_monitor", pointer, pointer)
        self.sending = _bound(quick, "kv_sending", pointer, pointer)
        self.turn = _bound(quick, "kv_turn", _AN_EXCHANGE, pointer)
        self.try_lock = _bound(quick, "kv_try_lock", number, pointer)
        self.lock = _bound(free, "kv_lock", None, pointer)
        self.unlock = _bound(quick, "kv_unlock", None, pointer)
        self.next = _bound(free, "kv_next", number, pointer, ctypes.POINTER(_AN_EXCHANGE))
        self.take_turn = _bound(free, "kv_take_turn", number, pointer)
        self.queued = _bound(quick, "kv_queued", number, pointer)
        self.hand_on = _bound(quick, "kv_hand_on", None, pointer)
        self.set_growing = _bound(quick, "kv_set_growing", None, pointer, number)
        self.end_turns = _bound(quick, "kv_end_turns", None, pointer)
        self.consume = _bound(quick, "kv_consume", None, pointer)
        self.take = _bound(quick, "kv_take", _AN_EXCHANGE, pointer)
        self.perform = _bound(free, "kv_perform", number, pointer, _AN_EXCHANGE)
        self.put_back = _bound(quick, "kv_put_back", None, pointer, _AN_EXCHANGE)
        self.send = _bound(free, "kv_send", number, pointer, _AN_EXCHANGE)
        self.answer = _bound(free, "kv_answer", number, pointer, ctypes.c_char_p, size)
        self.remember = _bound(quick, "kv_remember", None, pointer, pointer, size)

    def open(self, board: Board) -> HotConnection:
        """The loop's half of a connection."""
        return HotConnection(self, board)


def _bound(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function = getattr(library, name, None)
    if function is None:
        raise HotLoopMissing(_OF_ANOTHER_RELEASE)
    function.restype, function.argtypes = result, arguments
    bound: Callable[..., Any] = function
    return bound


def load() -> HotLoop | None:
    """The hot loop; None where it was not built."""
    with contextlib.suppress(HotLoopMissing):
        return HotLoop()
    return None


class HotConnection:
    """The loop's half of one connection; its memory lives as long as this object."""

    def __init__(self, loop: HotLoop, board: Board) -> None:
        self.loop = loop
        self._board = board  # the loop reads it
        self.pointer: int = loop.open_(TABLE.buffer_info()[0], board.address)
        if not self.pointer:
            raise MemoryError
        weakref.finalize(self, loop.close, self.pointer)

    def monitor(self) -> Lock:
        """The connection's lock, which the loop takes too."""
        return _NativeLock(self, self.loop.monitor(self.pointer))

    def sending(self) -> Lock:
        """Held while a reply is sent."""
        return _NativeLock(self, self.loop.sending(self.pointer))

    def attach(self, descriptor: int) -> None:
        """The socket to work on."""
        self.loop.attach(self.pointer, descriptor)

    def place(self, ticket: Ticket, memo: Memo, prefix: int) -> None:
        """Put a memo where the loop looks for it: in the ticket's table, which has room for it."""
        self.loop.remember(ticket.address, memo.address, prefix)

    def answer(self, body: bytes) -> tuple[Outcome, bytes]:
        """What the loop makes of one body, and its reply's body: for tests and measurements, without a socket."""
        outcome = Outcome(self.loop.answer(self.pointer, body, len(body)))
        turn = self.loop.turn(self.pointer).contents
        if outcome not in (Outcome.ANSWERED, Outcome.CHANGED, Outcome.NOTIFY):
            return outcome, b""
        return outcome, ctypes.string_at(turn.output + _HEAD, turn.out_length - _HEAD)


class _NativeLock:
    """A lock of the loop's, for Python: what threading.Lock has, without a time to wait."""

    __slots__ = ("_address", "_lock", "_owner", "_try", "_unlock")

    def __init__(self, owner: HotConnection, address: int) -> None:
        self._owner = owner  # whose memory it is in
        self._address = address
        self._try, self._lock, self._unlock = owner.loop.try_lock, owner.loop.lock, owner.loop.unlock

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it. False where it is taken and nobody wants to wait."""
        if self._try(self._address):
            return True
        if not blocking:
            return False
        if timeout >= 0:
            raise ValueError("this lock is not waited for by the clock")
        self._lock(self._address)
        return True

    def release(self) -> None:
        """Give it back."""
        self._unlock(self._address)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unlock(self._address)
