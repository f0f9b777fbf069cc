"""A plan as one command: all of it or nothing, at every point between its steps, and only for what its planner saw."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args, get_type_hints

import pytest

from keyvisor_firmware.association.machine import State
from keyvisor_firmware.association.plans import ORDER
from keyvisor_firmware.association.responses import ApCode
from keyvisor_firmware.commands import COMMITTED, FOLLOWED
from keyvisor_firmware.errors import ApError, Conflict, Malformed, Refused
from keyvisor_firmware.guests.instance import Instance
from keyvisor_firmware.state.records import PolicyRow
from keyvisor_firmware.views import PlanStep, SeenHsm
from keyvisor_guest.wire.secret_ids import SecretId
from keyvisor_hsm.cards import Apqn

from ..machine import ACCELERATOR, HSM, LEDGER, OTHER, SIGNING, SPARE, Machine, policy, step
from ..simulator import Crash, Mishap

BOTH = policy("payments-signing", "another")

# HSM is associated again with another secret, SPARE gets the one that it had, LEDGER is taken away, the accelerator
# comes. What the guest has of LEDGER is gone last, when nothing can fail any more but HSM's second association.
STEPS = (
    step("associate", HSM, OTHER),
    step("bind", ACCELERATOR),
    step("unbind", HSM),
    step("bind", SPARE),
    step("associate", SPARE, SIGNING),
    step("bind", HSM),
    step("unbind", LEDGER),
)
POINTS = [
    "begun",
    "seen",
    "policy registered",
    "unbind 03.0011 written",
    "unbind 03.0012 written",
    "bind 07.0000 written",
    "bind 05.0011 written",
    "bind 03.0011 written",
    "associate 03.0011 written",
    "associate 05.0011 written",
    "what is forbidden ended",
    "control points changed",
    "bind 07.0000 done",
    "bind 05.0011 done",
    "associate 05.0011 done",
    "unbind 03.0011 done",
    "unbind 03.0012 done",
    "bind 03.0011 done",
    "associate 03.0011 done",
    "done",
    "recorded",
    "written",
    "signed",
    COMMITTED,
    FOLLOWED,
]
LAST = POINTS.index("signed")  # after it the command is committed


@pytest.fixture
def guest(machine: Machine) -> Instance:
    return prepared(machine)


def prepared(machine: Machine) -> Instance:
    """HSM and LEDGER are associated, SPARE and the accelerator are not even bound."""
    guest = machine.guest("payments", HSM, LEDGER, SPARE, ACCELERATOR, secrets=("payments-signing",))
    machine.firmware.add_secret(guest.id, machine.request(guest, "another", b"\xa0" * 32))
    machine.firmware.set_policy(guest.id, policy("payments-signing"))
    for apqn in (HSM, LEDGER):
        machine.firmware.bind(guest.id, apqn)
        machine.firmware.associate(guest.id, apqn, SIGNING)
    return guest


def seen(machine: Machine, guest: Instance) -> list[SeenHsm]:
    """What a planner sees now."""
    return [
        SeenHsm(view.data.apqn, view.state, view.secret_id) for view in machine.firmware.list_hsms(guest.id)
    ]


def apply(
    machine: Machine,
    guest: Instance,
    steps: Sequence[PlanStep] = STEPS,
    row: PolicyRow = BOTH,
    at: Callable[[str], None] | None = None,
) -> Any:
    """Apply a plan that is made now; `at` hears of its points."""
    went_by = seen(machine, guest)
    if at is not None:
        machine.at = lambda point: at(point.removeprefix("apply plan: "))
    try:
        return machine.firmware.apply_plan(guest.id, row, steps, went_by)
    finally:
        machine.at = lambda point: None


def records(machine: Machine, outcome: str) -> list[dict[str, str]]:
    """The records of applied plans with that outcome."""
    log = machine.firmware.audit_log()
    return [dict(one.detail) for one in log if one.event == "apply plan" and one.detail["outcome"] == outcome]


def held(machine: Machine, guest: Instance) -> dict[Apqn, tuple[State, SecretId | None]]:
    return {one.apqn: (one.state, one.secret_id) for one in seen(machine, guest)}


NEW = {
    HSM: (State.ASSOCIATED, OTHER),
    LEDGER: (State.UNBOUND, None),
    SPARE: (State.ASSOCIATED, SIGNING),
    ACCELERATOR: (State.BOUND, None),
}


# --- all of it


def test_what_must_go_goes_first_whatever_the_order_of_the_steps(machine: Machine, guest: Instance) -> None:
    before = dict(machine.gates.grants["payments"])
    views = apply(machine, guest)
    assert {view.data.apqn: (view.state, view.secret_id) for view in views} == NEW == held(machine, guest)
    machine.require_agreement()
    now = machine.gates.grants["payments"]
    assert now[str(HSM)] not in (before[str(HSM)], "bound", None), "another secret opens another partition"
    assert now[str(SPARE)] == before[str(HSM)], "the same master key and secret open the same partition"


def test_it_is_one_record_with_its_steps(machine: Machine, guest: Instance) -> None:
    count = len(machine.firmware.audit_log())
    apply(machine, guest)
    assert len(machine.firmware.audit_log()) == count + 1
    (record,) = records(machine, "done")
    assert record["steps"].split("; ") == [
        "unbind 03.0011",
        "unbind 03.0012",
        "bind 07.0000",
        "bind 05.0011",
        "bind 03.0011",
        f"associate 03.0011 {OTHER.hex()}",
        f"associate 05.0011 {SIGNING.hex()}",
    ]


def test_what_is_kept_is_not_touched(machine: Machine, guest: Instance) -> None:
    told = len(machine.gates.told)
    apply(machine, guest, (step("bind", SPARE), step("associate", SPARE, SIGNING), step("unbind", LEDGER)))
    assert {line.split()[-1] for line in machine.gates.told[told:]} == {str(SPARE), str(LEDGER)}


def test_a_plan_without_steps_touches_no_gate(machine: Machine, guest: Instance) -> None:
    told = list(machine.gates.told)
    apply(machine, guest, ())
    assert machine.gates.told == told
    assert machine.firmware.get_policy(guest.id) == BOTH
    assert "steps" not in records(machine, "done")[-1]


def test_what_the_new_policy_forbids_ends_with_the_plan(machine: Machine, guest: Instance) -> None:
    only_spare = policy("payments-signing", hsm="{serial: 93AADFK719460099}")
    apply(machine, guest, (step("bind", SPARE), step("associate", SPARE, SIGNING)), only_spare)
    states = {apqn: state for apqn, (state, _) in held(machine, guest).items()}
    assert states == {HSM: "unbound", LEDGER: "unbound", SPARE: "associated", ACCELERATOR: "unbound"}
    machine.require_agreement()


def test_an_hsm_whose_association_failed_is_made_whole_by_a_plan(machine: Machine, guest: Instance) -> None:
    machine.firmware.bind(guest.id, SPARE)
    machine.gates.unusable.add(str(SPARE))
    with pytest.raises(ApError):
        machine.firmware.associate(guest.id, SPARE, SIGNING)
    assert held(machine, guest)[SPARE] == (State.FAILED, None)
    machine.gates.unusable.clear()
    apply(
        machine, guest, (step("unbind", SPARE), step("bind", SPARE), step("associate", SPARE, SIGNING)), BOTH
    )
    assert held(machine, guest)[SPARE] == (State.ASSOCIATED, SIGNING)
    machine.require_agreement()


# --- or nothing


@pytest.mark.parametrize("number", range(LAST + 1), ids=POINTS[: LAST + 1])
def test_a_mishap_at_any_point_leaves_all_as_it_was(machine: Machine, guest: Instance, number: int) -> None:
    """Rows, memory, and what passes the gate through which partition."""
    passed = []

    def fail(point: str) -> None:
        passed.append(point)
        if len(passed) == number + 1:
            raise Mishap(point)

    before = machine.picture()
    with pytest.raises(Mishap):
        apply(machine, guest, at=fail)
    assert passed == POINTS[: number + 1]
    assert machine.picture() == before
    machine.require_agreement()
    assert records(machine, "done") == []
    assert [one["reason"] for one in records(machine, "refused")] == ["Mishap"]
    apply(machine, guest)
    assert held(machine, guest) == NEW
    machine.require_agreement()


@pytest.mark.parametrize("number", range(len(POINTS)), ids=POINTS)
def test_a_crash_at_any_point_leaves_the_old_state_or_the_new(
    machine: Machine, guest: Instance, number: int
) -> None:
    passed = []

    def die(point: str) -> None:
        passed.append(point)
        if len(passed) == number + 1:
            machine.gates.dead = True
            raise Crash(point)

    before = machine.rows()
    with pytest.raises(Crash):
        apply(machine, guest, at=die)
    machine.again()
    assert passed == POINTS[: number + 1]
    machine.require_agreement()
    if number <= LAST:
        assert machine.rows() == before
        assert records(machine, "done") == []
    else:
        assert held(machine, guest) == NEW
        assert machine.firmware.get_policy(guest.id) == BOTH
        assert len(records(machine, "done")) == 1


def test_these_are_all_points(machine: Machine, guest: Instance) -> None:
    passed: list[str] = []
    apply(machine, guest, at=passed.append)
    assert passed == POINTS


def test_an_answer_of_the_old_state_from_half_a_plan_would_be_seen(
    machine: Machine, guest: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken twin of the two above: a command that keeps what it had done when it fails."""
    monkeypatch.setattr("keyvisor_firmware.association.effects.Effects.undo", lambda self: None)
    before = machine.picture()

    def fail(point: str) -> None:
        if point == "unbind 03.0011 done":
            raise Mishap(point)

    with pytest.raises(Mishap):
        apply(machine, guest, at=fail)
    assert machine.picture() != before
    with pytest.raises(AssertionError):
        machine.require_agreement()


@pytest.mark.parametrize("fails", [False, True])
def test_who_looks_at_any_point_sees_the_old_state_or_the_new(
    machine: Machine, guest: Instance, fails: bool
) -> None:
    """Everybody who asks while a plan is applied waits for its end: its guest, its host and the operator."""
    before = held(machine, guest)
    looks: list[Callable[[], dict[Apqn, State]]] = [
        lambda: {view.data.apqn: view.state for view in machine.firmware.list_hsms(guest.id)},
        lambda: {
            view.data.apqn: view.state for view in machine.firmware.held_hsms() if view.data.apqn in NEW
        },
    ]
    with ThreadPoolExecutor(max_workers=2 * len(POINTS)) as others:
        asked = []

        def look(point: str) -> None:
            asked.extend(others.submit(one) for one in looks)
            if fails and point == "signed":
                raise Mishap(point)

        with pytest.raises(Mishap) if fails else contextlib.nullcontext():
            apply(machine, guest, at=look)
        wanted = before if fails else NEW
        assert [one.result(timeout=60) for one in asked] == [
            {apqn: state for apqn, (state, _) in wanted.items()}
        ] * len(asked)
    assert len(asked) >= 2 * LAST


# --- what is refused


REFUSED_LAST: dict[str, tuple[PlanStep, ApCode | None]] = {
    "no such secret": (step("associate", SPARE, SecretId(bytes(32))), ApCode.NO_SUCH_SECRET),
    "not allowed": (step("associate", SPARE, OTHER), ApCode.NOT_PERMITTED),
    "no key for an accelerator": (step("associate", ACCELERATOR, SIGNING), ApCode.NOT_OPEN_TO_ASSOCIATION),
    "not attached": (step("bind", Apqn(9, 0x11)), ApCode.NOT_AVAILABLE),
    "not bound": (step("associate", Apqn(9, 0x11), SIGNING), ApCode.NOT_AVAILABLE),
    "bound already": (step("bind", LEDGER), ApCode.BIND_ERROR),
    "no action": (step("erase", SPARE), None),
    "a secret too much": (step("bind", SPARE, SIGNING), None),
    "a secret too few": (step("associate", SPARE), None),
    "twice": (step("unbind", HSM), None),
}


@pytest.mark.parametrize(("bad", "code"), REFUSED_LAST.values(), ids=REFUSED_LAST)
def test_a_refused_step_disturbs_no_gate(
    machine: Machine, guest: Instance, bad: PlanStep, code: ApCode | None
) -> None:
    """The gate hears of nothing before all is checked: sessions of what was to be unbound go on."""
    before, told = machine.picture(), list(machine.gates.told)
    steps = [step("unbind", HSM), step("bind", SPARE), step("bind", ACCELERATOR), bad]
    with pytest.raises(Refused) as caught:
        machine.firmware.apply_plan(guest.id, policy("payments-signing"), steps)
    assert machine.picture() == before
    assert machine.gates.told == told
    (record,) = records(machine, "refused")
    if code is None:
        assert isinstance(caught.value, Malformed)
        assert record["reason"] == str(caught.value)
        return
    assert isinstance(caught.value, ApError)
    assert caught.value.code is code
    assert f"at the step `{bad.action} {bad.apqn}`" in record["reason"] == str(caught.value)
    assert "nothing of the plan is done" in record["reason"]
    assert str(bad) in record["steps"]


def test_a_partition_that_does_not_open_leaves_no_hsm_failed_and_none_disturbed(
    machine: Machine, guest: Instance
) -> None:
    """HSM was to be unbound; the gate has not even heard of it when SPARE's partition does not open."""
    before, told = machine.picture(), len(machine.gates.told)
    machine.gates.unusable.add(str(SPARE))
    with pytest.raises(ApError, match="does not open; see what `keyvisor up` prints; nothing") as caught:
        apply(machine, guest)
    assert caught.value.code is ApCode.ASSOCIATION_FAILED
    assert machine.picture() == before
    machine.require_agreement()
    assert all(str(HSM) not in line and str(LEDGER) not in line for line in machine.gates.told[told:])
    assert "failed" not in {state for state, _ in held(machine, guest).values()}


def test_another_policy_than_the_images_is_refused_before_any_step(machine: Machine, guest: Instance) -> None:
    with machine.database.transaction() as rows:
        text = policy("payments-signing")
        rows.put_policy(guest.id, PolicyRow(text.source, text.text, measured=True))
    before, told = machine.picture(), list(machine.gates.told)
    with pytest.raises(Conflict, match="the one in its image"):
        apply(machine, guest)
    assert (machine.picture(), machine.gates.told) == (before, told)


# --- what the planner saw


OTHERWISE: dict[str, Callable[[Machine, Instance], object]] = {
    "HSM 03.0011 is unbound now, and the plan was made when it was associated": lambda m, g: (
        m.firmware.unbind(g.id, HSM)
    ),
    "HSM 05.0011 is bound now, and the plan was made when it was unbound": lambda m, g: m.firmware.bind(
        g.id, SPARE
    ),
    "HSM 03.0012 is associated with another secret": lambda m, g: m.firmware.apply_plan(
        g.id,
        BOTH,
        [step("unbind", LEDGER), step("bind", LEDGER), step("associate", LEDGER, OTHER)],
    ),
    "HSM 07.0000 is not attached any more": lambda m, _: m.firmware.detach("payments", ACCELERATOR),
}


@pytest.mark.parametrize(("why", "change"), OTHERWISE.items(), ids=OTHERWISE)
def test_a_plan_for_another_state_is_not_done(
    machine: Machine, guest: Instance, why: str, change: Callable[[Machine, Instance], object]
) -> None:
    """Where its own steps would be possible, too: this plan does nothing but keep what it saw."""
    went_by = seen(machine, guest)
    change(machine, guest)
    before, told = machine.picture(), list(machine.gates.told)
    for steps in (STEPS, ()):
        with pytest.raises(ApError, match=why) as caught:
            machine.firmware.apply_plan(guest.id, BOTH, steps, went_by)
        assert caught.value.code is ApCode.PLAN_OUTDATED
        assert "plan again" in str(caught.value)
        assert (machine.picture(), machine.gates.told) == (before, told)


def test_what_another_guest_does_is_not_what_was_seen(machine: Machine, guest: Instance) -> None:
    """A guest does not see that another one holds an HSM; the step says so, and nothing is done."""
    other = machine.guest("billing", SPARE)
    went_by = seen(machine, guest)
    machine.firmware.bind(other.id, SPARE)
    before = machine.picture()
    with pytest.raises(ApError, match="held by another guest") as caught:
        machine.firmware.apply_plan(guest.id, BOTH, STEPS, went_by)
    assert caught.value.code is ApCode.BOUND_TO_ANOTHER
    assert machine.picture() == before


def test_a_step_for_an_hsm_that_nobody_looked_at_is_malformed(machine: Machine, guest: Instance) -> None:
    went_by = [one for one in seen(machine, guest) if one.apqn != SPARE]
    with pytest.raises(Malformed, match=r"05\.0011"):
        machine.firmware.apply_plan(guest.id, BOTH, STEPS, went_by)


def test_the_order_knows_every_action() -> None:
    assert set(ORDER) == set(get_args(get_type_hints(PlanStep)["action"]))
