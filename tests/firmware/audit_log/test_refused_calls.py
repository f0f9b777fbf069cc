"""Refused calls on their way into the log: none is lost from the counts, and no guest fills the log."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_firmware.audit_log.refused_calls import (
    ALLOWANCE,
    LONGEST,
    RETURNS,
    WINDOW,
    Due,
    RefusedCall,
    RefusedCalls,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def refused(at: str = "t", *, guest: str = "g", call: str = "C_Sign", reason: str = "why") -> RefusedCall:
    return RefusedCall(guest, at, call, "CKR_USER_NOT_LOGGED_IN", reason, "03.0011")


def test_the_first_of_a_kind_is_due_at_once_and_the_rest_as_one_when_the_window_is_over() -> None:
    clock = Clock()
    calls = RefusedCalls(clock)
    calls.note(refused("1"))
    assert calls.due() == (Due("g", refused("1"), 1, "1", "1"),)
    for at in ("2", "3", "4"):
        calls.note(refused(at))
    assert calls.due() == ()
    clock.now += WINDOW
    assert calls.due() == (Due("g", refused("1"), 3, "2", "4"),)
    clock.now += WINDOW
    assert calls.due() == ()


def test_those_that_come_before_the_first_is_written_are_one_with_it() -> None:
    calls = RefusedCalls(Clock())
    for at in ("1", "2", "3"):
        calls.note(refused(at))
    assert calls.due() == (Due("g", refused("1"), 3, "1", "3"),)


def test_what_differs_in_anything_is_another_kind() -> None:
    calls = RefusedCalls(Clock())
    kinds = [
        refused(),
        refused(guest="h"),
        refused(call="C_Verify"),
        refused(reason="another"),
        RefusedCall("g", "t", "C_Sign", "CKR_MECHANISM_INVALID", "why", "03.0011"),
        RefusedCall("g", "t", "C_Sign", "CKR_USER_NOT_LOGGED_IN", "why", "03.0012"),
        RefusedCall("g", "t", "C_Sign", "CKR_USER_NOT_LOGGED_IN", "why", "03.0011", because={"point": "p"}),
    ]
    for one in kinds:
        calls.note(one)
    assert [due.call for due in calls.due()] == kinds


def test_at_the_end_everything_is_due() -> None:
    calls = RefusedCalls(Clock())
    calls.note(refused("1"))
    calls.due()
    calls.note(refused("2"))
    assert calls.due() == ()
    assert [due.count for due in calls.due(all_of_it=True)] == [1]


def test_a_flood_of_kinds_is_bounded_and_counted_and_other_guests_notice_nothing() -> None:
    clock = Clock()
    calls = RefusedCalls(clock)
    flood = 50 * ALLOWANCE
    for number in range(flood):
        calls.note(refused(str(number), reason=f"why {number}"))
    calls.note(refused(guest="other"))
    found = calls.due(all_of_it=True)
    of_flood = [due for due in found if due.guest == "g"]
    assert len(of_flood) == ALLOWANCE + 1
    assert sum(due.count for due in of_flood) == flood
    assert of_flood[-1].call is None
    assert [due.call for due in found if due.guest == "other"] == [refused(guest="other")]


def test_a_flood_that_goes_on_for_a_day_leaves_some_thousand_records() -> None:
    clock = Clock()
    calls = RefusedCalls(clock)
    written = noted = 0
    for second in range(86_400 // 10):
        clock.now += 10
        for number in range(5):
            calls.note(refused(reason=f"{second} {number}"))
            noted += 1
        written += len(calls.due())
    assert written < ALLOWANCE + 86_400 / RETURNS + 86_400 / WINDOW + 2
    assert noted > 10 * written


def test_the_allowance_comes_back() -> None:
    clock = Clock()
    calls = RefusedCalls(clock)
    for number in range(ALLOWANCE + 1):
        calls.note(refused(reason=str(number)))
    calls.due(all_of_it=True)
    clock.now += 3 * RETURNS
    for number in range(5):
        calls.note(refused(reason=f"again {number}"))
    assert [due.call is None for due in calls.due(all_of_it=True)] == [False] * 3 + [True]


def test_long_reasons_that_begin_alike_are_one_kind() -> None:
    calls = RefusedCalls(Clock())
    for number in range(9):
        calls.note(refused(reason="x" * LONGEST + str(number)))
    assert [due.count for due in calls.due()] == [9]


NOTED = st.tuples(st.just("note"), st.sampled_from("gh"), st.integers(0, 400))
PASSES = st.tuples(st.just("pass"), st.floats(0, 2 * WINDOW), st.none())
WRITE = st.tuples(st.just("write"), st.booleans(), st.none())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.one_of(NOTED, NOTED, NOTED, PASSES, WRITE), max_size=120))
def test_every_refusal_is_counted_once_whatever_the_order(story: list[tuple[str, object, object]]) -> None:
    """Shadow: a plain count per guest."""
    clock, shadow, found = Clock(), Counter[str](), Counter[str]()
    calls = RefusedCalls(clock)

    def write(all_of_it: bool) -> None:
        for due in calls.due(all_of_it=all_of_it):
            assert due.count > 0
            assert due.first
            found[due.guest] += due.count

    for what, value, reason in story:
        match what, value:
            case "note", str(guest):
                calls.note(refused(guest=guest, reason=str(reason)))
                shadow[guest] += 1
            case "pass", float(seconds):
                clock.now += seconds
            case "write", bool(all_of_it):
                write(all_of_it)
    write(all_of_it=True)
    assert found == shadow
