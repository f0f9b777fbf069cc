"""What Python lays out is what the hot loop reads: each cell decides what it should, and nothing is let through unasked."""

from __future__ import annotations

import ctypes
import gc
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from keyvisor_firmware.broker.calls import BY_NAME
from keyvisor_firmware.broker.codec import pack_error
from keyvisor_firmware.broker.hot.board import Board, Ticket
from keyvisor_firmware.broker.hot.loop import HotLoop, Outcome
from keyvisor_firmware.broker.hot.tables import ROWS
from keyvisor_firmware.broker.limits import Limits
from keyvisor_firmware.broker.operations import BEGINS, ENDS

from ..encoder import Needs, body, read_reply

ALL = (1 << 128) - 1
WORD = 0x50002
IN = ctypes.CFUNCTYPE(ctypes.c_ulong, *[ctypes.c_ulong] * 3)
IN_OUT = ctypes.CFUNCTYPE(ctypes.c_ulong, *[ctypes.c_ulong] * 5)


@dataclass
class Desk:
    """A board with one session, whose C_SignUpdate, C_SignFinal and C_Sign are callbacks."""

    loop: HotLoop
    board: Board = field(default_factory=Board)
    ticket: Ticket = field(default_factory=lambda: Ticket(5))
    word: array[int] = field(default_factory=lambda: array("Q", [WORD]))
    functions: array[int] = field(default_factory=lambda: array("Q", bytes(8 * ROWS)))
    seen: list[tuple[int, ...]] = field(default_factory=list)
    inside: Callable[[], int] = lambda: 0

    def __post_init__(self) -> None:
        self.hot = self.loop.open(self.board)
        self.callbacks = {
            "C_SignUpdate": IN(self.called),
            "C_SignFinal": IN(self.called),
            "C_Sign": IN_OUT(self.called),
        }
        for name, function in self.callbacks.items():
            self.functions[BY_NAME[name].id] = ctypes.cast(function, ctypes.c_void_p).value or 0
        self.board.add(self.ticket)
        self.ticket.open(77)
        self.let_through()

    def let_through(self, allowed: int = ALL) -> None:
        self.ticket.grant(WORD, self.word.buffer_info()[0], allowed, self.functions.buffer_info()[0])

    def called(self, *given: int) -> int:
        self.seen.append(given)
        return self.inside()

    def say(self, name: str = "C_SignUpdate", session: int = 5, *values: object) -> tuple[Outcome, bytes]:
        return self.hot.answer(body(name, session, *(values or (b"data",))))


@pytest.fixture
def desk(loop: HotLoop) -> Desk:
    return Desk(loop)


def test_what_is_let_through_is_done(desk: Desk) -> None:
    outcome, reply = desk.say()
    assert outcome is Outcome.ANSWERED
    assert read_reply("C_SignUpdate", reply) is None
    ((real, _, length),) = desk.seen
    assert (real, length) == (77, 4)
    assert not desk.ticket.inside


def _unknown(desk: Desk) -> None:
    desk.board.remove(desk.ticket)


def _closed(desk: Desk) -> None:
    desk.ticket.close()


def _never_opened(desk: Desk) -> None:
    desk.board.remove(desk.ticket)
    desk.ticket = Ticket(5)
    desk.board.add(desk.ticket)


def _inside(desk: Desk) -> None:
    desk.ticket.inside = True


def _another_word(desk: Desk) -> None:
    desk.word[0] += 1


def _not_allowed(desk: Desk) -> None:
    desk.let_through(ALL & ~(1 << BY_NAME["C_SignUpdate"].id))


def _nothing_allowed(desk: Desk) -> None:
    desk.let_through(0)


def _no_function(desk: Desk) -> None:
    desk.functions[BY_NAME["C_SignUpdate"].id] = 0


@pytest.mark.parametrize(
    "way",
    [_unknown, _closed, _never_opened, _inside, _another_word, _not_allowed, _nothing_allowed, _no_function],
)
def test_what_is_not_let_through_is_pythons(way: Callable[[Desk], None], desk: Desk) -> None:
    desk.say()
    way(desk)
    desk.seen.clear()
    assert desk.say() == (Outcome.COLD, b"")
    assert desk.seen == []


@pytest.mark.parametrize(
    "call", [BY_NAME[name] for name in ("C_SignUpdate", "C_SignFinal")], ids=lambda c: c.name
)
def test_each_call_has_its_bit(call: object, desk: Desk) -> None:
    name = call.name  # type: ignore[attr-defined]
    values = (b"data",) if name == "C_SignUpdate" else (64,)
    desk.let_through(1 << BY_NAME[name].id)
    assert desk.say(name, 5, *values)[0] is Outcome.ANSWERED
    assert desk.say("C_Sign", 5, b"data", 64)[0] is Outcome.COLD


@pytest.mark.parametrize("high", [False, True])
def test_both_halves_of_the_mask_count(high: bool, desk: Desk) -> None:
    """C_GenerateRandom is the call 64."""
    random = BY_NAME["C_GenerateRandom"].id
    assert random == 64
    desk.functions[random] = desk.functions[BY_NAME["C_SignFinal"].id]
    desk.let_through(1 << 64 if high else (1 << 64) - 1)
    assert desk.say("C_GenerateRandom", 5, 8)[0] is (Outcome.ANSWERED if high else Outcome.COLD)


def test_what_is_taken_away_inside_is_held_back(desk: Desk) -> None:
    def revoke() -> int:
        desk.word[0] += 1
        return 0

    desk.inside = revoke
    assert desk.say()[0] is Outcome.CHANGED
    assert desk.ticket.inside  # until Python has looked
    desk.word[0] -= 1
    assert desk.say()[0] is Outcome.COLD


def test_the_session_is_taken_while_the_module_works(desk: Desk) -> None:
    seen = []

    def look() -> int:
        lock = desk.hot.monitor()
        seen.append((desk.ticket.inside, lock.acquire(blocking=False)))
        lock.release()
        return 0

    desk.inside = look
    assert desk.say()[0] is Outcome.ANSWERED
    assert seen == [(True, True)]


@pytest.mark.parametrize("rv", [0, 5])
def test_who_waits_is_told(rv: int, desk: Desk) -> None:
    desk.board.waiting = 1
    desk.inside = lambda: rv
    outcome, reply = desk.say()
    assert outcome is Outcome.NOTIFY
    assert (reply == pack_error(5)) is (rv == 5)


def test_a_wait_that_begins_inside_counts(desk: Desk) -> None:
    def wait() -> int:
        desk.board.waiting += 1
        return 0

    desk.inside = wait
    assert desk.say()[0] is Outcome.NOTIFY


@pytest.mark.parametrize(
    ("name", "values", "rv", "ends"),
    [
        ("C_Sign", (b"data", 64), 0, True),
        ("C_Sign", (b"data", 0), 0, False),
        ("C_Sign", (b"data", 0xFFFFFFFF), 0x150, False),
        ("C_Sign", (b"data", 64), 0x150, False),
        ("C_Sign", (b"data", 64), 5, False),
        ("C_SignFinal", (64,), 0, True),
        ("C_SignFinal", (0,), 0, False),
        ("C_SignUpdate", (b"data",), 0, False),
        ("C_SignUpdate", (b"data",), 5, False),
    ],
)
def test_what_ends_is_what_ended(
    name: str, values: tuple[object, ...], rv: int, ends: bool, desk: Desk
) -> None:
    other = BEGINS["C_DigestInit"]
    desk.ticket.began = BEGINS["C_SignInit"] | other
    desk.inside = lambda: rv
    desk.say(name, 5, *values)
    assert desk.ticket.began == (other if ends else BEGINS["C_SignInit"] | other)
    assert ENDS["C_Sign"] == BEGINS["C_SignInit"]


def test_the_room_is_the_limits(loop: HotLoop) -> None:
    desk = Desk(loop, Board(Limits(output=32)))
    rooms = []

    def look() -> int:
        _, _, _, out, left = desk.seen[-1]
        rooms.append((out != 0, ctypes.c_ulong.from_address(left).value))
        ctypes.c_ulong.from_address(left).value = 5
        return 0

    desk.inside = look
    for room in (31, 32, 33, 0xFFFFFFFE, 0xFFFFFFFF, 0):
        _, reply = desk.say("C_Sign", 5, b"data", room)
    assert rooms == [(True, 31), (True, 32), (True, 32), (True, 32), (True, 0), (False, 0)]
    assert read_reply("C_Sign", reply) == Needs(5)


def test_more_than_there_is_room_for_is_cut(desk: Desk) -> None:
    def boast() -> int:
        ctypes.c_ulong.from_address(desk.seen[-1][-1]).value = 1 << 40
        return 0

    desk.inside = boast
    assert len(read_reply("C_Sign", desk.say("C_Sign", 5, b"data", 16)[1])) == 16


def test_many_sessions_are_found_by_their_numbers(desk: Desk) -> None:
    tickets = {5: desk.ticket}
    for handle in range(8, 3000, 7):
        desk.ticket = tickets[handle] = Ticket(handle)
        desk.board.add(desk.ticket)
        desk.ticket.open(handle + 1_000_000)
        desk.let_through()
    gone = sorted(tickets)[1::3]
    for handle in gone:
        desk.board.remove(tickets.pop(handle))
    gc.collect()
    for handle in range(3010):
        desk.seen.clear()
        outcome, _ = desk.say("C_SignUpdate", handle)
        assert outcome is (Outcome.ANSWERED if handle in tickets else Outcome.COLD), handle
        if handle in tickets:
            assert desk.seen[0][0] == (77 if handle == 5 else handle + 1_000_000)


def test_a_ticket_that_is_closed_has_nothing_left(desk: Desk) -> None:
    ticket = desk.ticket
    ticket.began, ticket.heavy = 7, True
    ticket.close()
    assert (ticket.real, ticket.granted, ticket.began, ticket.heavy, ticket.inside) == (0, 0, 0, False, False)


def test_changes_and_waiters_are_counted() -> None:
    board = Board()
    board.change()
    board.change()
    board.waiting += 3
    assert (board.changes, board.waiting) == (2, 3)
