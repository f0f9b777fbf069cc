"""What was decided about a request, kept under its exact bytes, so that the hot loop need not ask again (hot_loop.c).

A memo belongs to one session and is good for as long as nothing on the connection has changed that a decision looks at
(Board.changes), and under the word of the state page alone that the session's ticket names. The only bytes of a request
that may differ are those of an IV: no decision looks at them.
"""

from __future__ import annotations

import enum
import struct
from array import array
from ctypes import string_at
from typing import TYPE_CHECKING, Any, Final

from keyvisor_firmware.broker.attributes import ValueClass, value_class, within_limits
from keyvisor_firmware.broker.calls import Call, Role
from keyvisor_firmware.broker.codec import request_prefix
from keyvisor_firmware.broker.control_points import holds_for_good
from keyvisor_firmware.broker.hot.tables import MEMO_CALLS
from keyvisor_firmware.broker.mechanism_parameters import HOLES, Encoding
from keyvisor_firmware.broker.slow_calls import BEGIN_WITH_PRIVATE_KEY, HEAVY
from keyvisor_hsm.cryptoki.native import Mechanism, Memory, Query

if TYPE_CHECKING:
    from keyvisor_firmware.broker.connection import Connection
    from keyvisor_firmware.broker.hot.board import Ticket
    from keyvisor_firmware.broker.hot.loop import HotConnection

_FEWEST, _MOST = 16, 1024  # memos of one session that there is room for; past the most they start anew


class Kind(enum.IntEnum):
    """What is done for a request that is remembered."""

    REPLY = 0
    BEGIN = 1
    ATTRIBUTES = 2


_AS_BEFORE: Final = 2  # `heavy` of a call that does not say how long its operation takes
MEMO_CELLS: Final = 17

# How values travel that the hot loop can write. A date travels as bytes do.
CLASSES: Final = {ValueClass.BYTE: 0, ValueClass.ULONG: 1, ValueClass.BYTES: 2, ValueClass.DATE: 2}


class Memo:
    """One request and what it means, laid out for the hot loop. `kept` owns the memory that it points to."""

    __slots__ = ("_cells", "_kept", "address", "changes")

    def __init__(
        self, kind: Kind, changes: int, request: bytes, *rest: int, kept: tuple[object, ...] = ()
    ) -> None:
        self.changes = changes
        placed = _placed(request)
        self._kept = (placed, *kept)
        self._cells = array("Q", (kind, changes, len(request), placed.address, *rest))
        self.address = self._cells.buffer_info()[0]


def _placed(data: bytes) -> Memory:
    memory = Memory(len(data))
    memory.write(0, data)
    return memory


class Memos:
    """The memos of one session. Whoever changes them holds the connection's lock, while no call is inside for the session."""

    __slots__ = ("_changes", "_known", "_table")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """None is good any more; the session's ticket knows of none."""
        self._changes = -1
        self._known: dict[bytes, tuple[Memo, int]] = {}  # by the bytes that must be the same
        self._table = array("Q")

    def keep(self, hot: HotConnection, ticket: Ticket, memo: Memo, fixed: bytes, prefix: int) -> None:
        """Keep a memo under the bytes that must be the same. `prefix`: how many bytes say which call it is."""
        if memo.changes != self._changes or len(self._known) >= _MOST:
            self.forget()
            self._changes = memo.changes
        if fixed in self._known:
            return
        self._known[fixed] = memo, prefix
        if 2 * len(self._known) <= len(self._table):
            hot.place(ticket, memo, prefix)
            return
        self._table = array("Q", bytes(8 * max(_FEWEST, 2 * len(self._table))))
        ticket.remember_in(self._table.buffer_info()[0], len(self._table) - 1)
        for known, its_prefix in self._known.values():
            hot.place(ticket, known, its_prefix)


def remember(
    connection: Connection,
    call: Call,
    values: tuple[Any, ...],
    request: bytes,
    encoding: Encoding,
    reply: bytes,
    changes: int,
) -> None:
    """Keep what a call that went well was taken for. `changes`: the board's count before the call was looked at."""
    maker = _MAKERS.get(call.name)
    if maker is None or connection.hot is None or reply.startswith(_ERROR):
        return
    with connection.lock:
        session = connection.handles.sessions.get(values[0])
        if session is None or session.ticket.inside or not session.ticket.granted:
            return
        if connection.handles.board.changes != changes:
            return
        if not holds_for_good(session.control, call, _mechanism_type(call, values)):
            return
        prefix = len(request_prefix(call))
        if (made := maker(connection, call, values, request, encoding, reply, changes)) is not None:
            memo, fixed = made
            session.memos.keep(connection.hot, session.ticket, memo, fixed, prefix)


def _mechanism_type(call: Call, values: tuple[Any, ...]) -> int | None:
    mechanism = values[1] if Role.MECHANISM in call.roles else None
    return None if mechanism is None else mechanism.type


_ERROR: Final = bytes(4)  # the id of a reply that is an error
_Made = tuple[Memo, bytes]


def _reply(
    _c: Connection,
    _call: Call,
    _values: tuple[Any, ...],
    request: bytes,
    _e: Encoding,
    reply: bytes,
    changes: int,
) -> _Made:
    """The same reply again: nothing in it comes from the module."""
    placed = _placed(reply)
    cells = (0, 0, 0, 0, 0, 0, _AS_BEFORE, placed.address, len(reply), 0, 0, 0, 0)
    return Memo(Kind.REPLY, changes, request, *cells, kept=(placed,)), request


def _begin(
    connection: Connection,
    call: Call,
    values: tuple[Any, ...],
    request: bytes,
    encoding: Encoding,
    _r: bytes,
    changes: int,
) -> _Made | None:
    """The mechanism and the key's handle in the module."""
    mechanism: Mechanism | None = values[1]
    if mechanism is None:
        return None
    key = 0 if len(values) < 3 else connection.handles.objects[values[2]].real
    heavy = mechanism.type in HEAVY if call.name in BEGIN_WITH_PRIVATE_KEY else _AS_BEFORE
    begin, length, to = _hole(mechanism, len(request_prefix(call)) + _SESSION + _TYPE, request, encoding)
    cells = (begin, length, to, mechanism.address, len(values), key, heavy, 0, 0, 0, 0, 0, 0)
    fixed = request[:begin] + request[begin + length :]
    return Memo(Kind.BEGIN, changes, request, *cells, kept=(mechanism,)), fixed


_SESSION, _TYPE = 8, 4  # bytes


def _hole(mechanism: Mechanism, behind: int, request: bytes, encoding: Encoding) -> tuple[int, int, int]:
    """Where an IV is in the request, its length, and where the module finds it. `behind`: the offset behind the type."""
    hole = HOLES.get(mechanism.type)
    if hole is None or not mechanism.parameter_address:
        return len(request), 0, mechanism.address
    length_at = behind + hole.offset + (encoding is Encoding.FROM_0_25_6)
    (length,) = _U32.unpack_from(request, length_at)
    return length_at + _U32.size, length, hole.address(mechanism)


_U32: Final = struct.Struct(">I")


def _attributes(
    connection: Connection,
    _call: Call,
    values: tuple[Any, ...],
    request: bytes,
    _e: Encoding,
    reply: bytes,
    changes: int,
) -> _Made | None:
    """The object's handle in the module, and room for the values, as it was asked for."""
    wanted: tuple[tuple[int, Any], ...] = values[2]
    kinds = [value_class(type_) for type_, _ in wanted]
    if not wanted or any(kind not in CLASSES for kind in kinds):
        return None
    rooms = within_limits(wanted, connection.limits)
    query = Query(rooms)
    asked = _placed(string_at(query.address, query.size))
    classes = _placed(bytes([CLASSES[kind] for kind in kinds]))
    named = connection.handles.objects[values[1]]
    most = _FRAME_OF_ATTRIBUTES + sum(_AROUND_A_VALUE + room for _, room in rooms if isinstance(room, int))
    cells = (
        *(0, 0, 0, 0, 0, named.real, _AS_BEFORE, 0, most),
        *(query.count, asked.address, query.address, classes.address),
    )
    return Memo(Kind.ATTRIBUTES, changes, request, *cells, kept=(query, asked, classes)), request


_FRAME_OF_ATTRIBUTES, _AROUND_A_VALUE = (
    16,
    17,
)  # bytes of a reply around all values, and around one of any class

_MAKERS: Final = {
    name: {"C_GetSessionInfo": _reply, "C_GetAttributeValue": _attributes}.get(name, _begin)
    for name in MEMO_CALLS
}
