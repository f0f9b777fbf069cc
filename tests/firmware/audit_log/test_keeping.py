"""The audit log beside the commands: refused calls are written, and a log that went back is noticed at the start."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvisor_firmware.audit import AUDIT_KEY
from keyvisor_firmware.audit_log.chain import Event
from keyvisor_firmware.audit_log.decisions import Decision
from keyvisor_firmware.audit_log.keeping import AuditKeeper, taking_in
from keyvisor_firmware.audit_log.refused_calls import RefusedCalls
from keyvisor_firmware.broker.control import Refusal
from keyvisor_firmware.broker.errors import Because
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_firmware.errors import Conflict
from keyvisor_hsm.errors import OperatorTokenError

from ..machine import HSM, SIGNING, Machine, policy
from .written import change

AT = "2026-02-03T12:00:00.000+00:00"


class Memory:
    """An operator token that remembers."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[bytes, ...]] = {}
        self.broken = False

    def remember(self, name: str, value: bytes) -> None:
        if self.broken:
            raise OperatorTokenError("the token is gone")
        self.values[name] = (value,)

    def remembered(self, name: str) -> tuple[bytes, ...]:
        return self.values.get(name, ())


def keeper(machine: Machine, memory: Memory) -> AuditKeeper:
    return AuditKeeper(machine.firmware.audit, memory, machine.log)


def started(machine: Machine, memory: Memory) -> None:
    """As the daemon does at its start, and an end."""
    one = keeper(machine, memory)
    one.start()
    one.stop()


def went_back(machine: Machine) -> list[Event]:
    return [event for event in machine.firmware.audit_log() if event.event == "audit log went back"]


def test_the_token_remembers_the_head_after_the_commit(machine: Machine) -> None:
    memory = Memory()
    kept = keeper(machine, memory)
    kept.keep()
    machine.start("g")
    kept.keep()
    assert memory.remembered(AUDIT_KEY) == (str(machine.firmware.audit.head()).encode(),)


def test_a_log_that_goes_on_is_no_news(machine: Machine) -> None:
    memory = Memory()
    started(machine, memory)
    machine.start("g")  # the token lags behind
    machine.again()
    started(machine, memory)
    machine.again()
    started(machine, memory)
    assert went_back(machine) == []


@pytest.mark.parametrize("grown", [False, True])
def test_an_older_database_is_noticed_logged_and_recorded(
    machine: Machine, tmp_path: Path, grown: bool
) -> None:
    memory = Memory()
    started(machine, memory)
    older = tmp_path / "older.db"
    machine.database.close()
    shutil.copy(machine.path, older)
    machine.up()
    machine.start("g")
    started(machine, memory)
    remembered = memory.remembered(AUDIT_KEY)[0].decode()
    machine.database.close()
    shutil.copy(older, machine.path)
    machine.up()
    if grown:
        machine.start("g")
        machine.start("h")  # past the number that the token remembers, with other records
    started(machine, memory)
    [event] = went_back(machine)
    assert event.detail["outcome"] == "noticed"
    assert event.detail["remembered"] == remembered
    assert any("audit log went back" in line for line in machine.log.lines)
    machine.again()
    started(machine, memory)
    assert len(went_back(machine)) == 1, "it is told once"


def test_a_database_that_was_made_anew_is_noticed(
    machine: Machine, new_machine: Callable[..., Machine]
) -> None:
    memory = Memory()
    machine.start("g")
    started(machine, memory)
    other = new_machine()
    started(other, memory)
    assert len(went_back(other)) == 1


def test_after_a_crash_between_the_two_writes_the_later_head_counts(machine: Machine) -> None:
    """`remember` leaves the old value and the new one then."""
    memory = Memory()
    kept = keeper(machine, memory)
    kept.keep()
    old = memory.remembered(AUDIT_KEY)
    machine.start("g")
    kept.keep()
    memory.values[AUDIT_KEY] = (*memory.remembered(AUDIT_KEY), *old, b"\xff", b"nonsense")
    started(machine, memory)
    assert went_back(machine) == []


def test_a_token_that_does_not_remember_stops_nothing(machine: Machine) -> None:
    memory = Memory()
    kept = keeper(machine, memory)
    memory.broken = True
    kept.keep()
    assert any("cannot be kept" in line for line in machine.log.lines)
    machine.start("g")
    memory.broken = False
    kept.keep()
    assert memory.remembered(AUDIT_KEY)


# --- what gates refused


def machine_that_takes_in(machine: Machine) -> RefusedCalls:
    return machine.firmware.audit._refused_calls


def refusal(because: Because | None = None) -> Refusal:
    return Refusal(AT, str(HSM), "C_Sign", "CKR_USER_NOT_LOGGED_IN", "not associated", because)


def calls_refused(machine: Machine) -> list[Event]:
    return [event for event in machine.firmware.audit_log() if event.event == "call refused"]


def test_a_refused_call_is_recorded_with_what_explains_it(machine: Machine) -> None:
    guest = machine.guest("g", HSM)
    machine.firmware.set_policy(guest.id, policy("payments-signing"))
    machine.firmware.bind(guest.id, HSM)
    data = machine.firmware._hsms.query(HSM)
    take_in = taking_in(machine_that_takes_in(machine))
    because = Because("no raw rsa", "policy.yaml:9", 3, {"CKA_LABEL": "x"}, "rule-of-payments-signing")
    for one in (None, None, because):
        take_in("g", refusal(one), data, HsmState.BOUND)
    first, second = calls_refused(machine)
    assert (first.guest, first.detail["count"], first.detail["code"]) == ("g", "2", "CKR_USER_NOT_LOGGED_IN")
    [told] = first.decisions
    decision = Decision.from_json(told)
    assert (decision.call, decision.allowed, decision.state, decision.count) == ("C_Sign", False, "bound", 2)
    assert decision.hsm is not None
    assert (decision.hsm.serial, decision.hsm.mkvp) == (data.serial, data.mkvp)
    assert decision.rule is not None
    assert str(decision.rule) == "rule-of-payments-signing (policy.yaml:3)"
    assert decision.secret_id == SIGNING.hex()
    assert decision.missing is not None
    assert "secret `payments-signing` is not in the store" in decision.missing
    assert Decision.from_json(second.decisions[0]).because == {
        "point": "no raw rsa",
        "origin": "policy.yaml:9",
        "mechanism": 3,
        "template": {"CKA_LABEL": "x"},
        "rule": "rule-of-payments-signing",
    }


def test_a_call_that_names_no_hsm_of_the_guest_is_recorded_too(machine: Machine) -> None:
    machine.guest("g")
    taking_in(machine_that_takes_in(machine))("g", refusal(), None, None)
    [event] = calls_refused(machine)
    assert "apqn" not in event.detail
    assert event.decisions[0]["code"] == "CKR_USER_NOT_LOGGED_IN"


def test_a_flood_is_one_record_more(machine: Machine) -> None:
    machine.guest("g")
    take_in = taking_in(machine_that_takes_in(machine))
    for number in range(1000):
        take_in("g", Refusal(AT, None, "C_Sign", "CKR_X", str(number)), None, None)
    machine.firmware.audit.write_refused_calls(all_of_it=True)
    events = calls_refused(machine)
    assert len(events) == 257
    assert "more kinds" in events[-1].detail["reason"]
    assert sum(int(event.detail["count"]) for event in events) == 1000


def test_nothing_refused_writes_nothing(machine: Machine) -> None:
    before = machine.firmware.audit.head()
    machine.firmware.audit.write_refused_calls(all_of_it=True)
    assert machine.firmware.audit.head() == before


def test_a_log_that_somebody_broke_is_said_so_and_commands_go_on(machine: Machine) -> None:
    guest = machine.guest("g", HSM)
    for statement in ("update audit set detail = 'x' where number = 2", "update audit set decisions = 'x'"):
        change(machine.path, statement)
        with pytest.raises(Conflict, match="keyvisor audit verify"):
            machine.firmware.audit_log()
    machine.firmware.bind(guest.id, HSM)
