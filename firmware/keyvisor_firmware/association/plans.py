"""A plan, as one command: a policy is registered and every step is done, or nothing is.

All steps are checked and written before a gate hears of the first one, so that what is refused disturbs nobody. Of what
is then done to the gate, that which can fail comes first: the HSMs that the plan takes away serve on until all others
are ready. Knows no door; why an HSM is to be bound is the planner's, and whether it may be `commands`'.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from keyvisor_firmware.association.commands import Associations, Work
from keyvisor_firmware.association.effects import KeptBack
from keyvisor_firmware.association.machine import State
from keyvisor_firmware.association.policies import read
from keyvisor_firmware.association.responses import ApCode
from keyvisor_firmware.commands import Commands
from keyvisor_firmware.errors import ApError, Conflict, Malformed
from keyvisor_firmware.guests.instance import InstanceId
from keyvisor_firmware.guests.register import Register
from keyvisor_firmware.guests.running import Running
from keyvisor_firmware.state.records import PolicyRow
from keyvisor_firmware.views import PlanStep, SeenHsm
from keyvisor_hsm.cards import Apqn
from keyvisor_hsm.errors import PartitionUnusable
from keyvisor_policy import Policy

ORDER: Final[Mapping[str, int]] = {"unbind": 0, "bind": 1, "associate": 2}
"""The order in which steps are checked and written: what must go makes room for what comes."""


class PlanCommands:
    """Registering a policy, alone or with the plan that was made from it."""

    def __init__(self, commands: Commands, guests: Register, associations: Associations) -> None:
        self._commands = commands
        self._guests = guests
        self._associations = associations

    def set_policy(self, instance: InstanceId, row: PolicyRow) -> None:
        """Register a policy; associations that it does not allow end at once. Raises Malformed, Conflict."""
        self._apply("set policy", instance, row, (), None)

    def apply(
        self,
        instance: InstanceId,
        row: PolicyRow,
        steps: Sequence[PlanStep],
        seen: Sequence[SeenHsm] | None = None,
    ) -> None:
        """Register a policy and do all steps, or nothing of it. Raises Malformed, ApError, Conflict.

        `seen` is what the planner went by; where that is not so any more, it is ApError 3d. Each step is checked as if
        it came alone, and against the new policy; what else the policy does not allow ends with them.
        """
        ordered = sorted(steps, key=lambda step: ORDER.get(step.action, len(ORDER)))
        self._apply("apply plan", instance, row, ordered, seen)

    def _apply(
        self,
        event: str,
        instance: InstanceId,
        row: PolicyRow,
        steps: Sequence[PlanStep],
        seen: Sequence[SeenHsm] | None,
    ) -> None:
        detail = {"source": row.source}
        if steps:
            detail["steps"] = "; ".join(map(str, steps))
        with self._commands.alone():
            guest = self._guests.of(instance)
            with self._commands.command(event, guest.instance.name, **detail) as work:
                _require_plan(steps, seen)
                policy = read(row)
                work.decided.policies.append(row)
                _require_as_seen(work, guest, seen or ())
                work.at("seen")
                _register(work, instance, row)
                work.at("policy registered")
                control = self._associations.controlling(work, guest, policy)
                with work.effects.kept_back() as at_gate:
                    self._write(work, guest, steps, policy)
                control()
                work.at("control points changed")
                for one in _in_gate_order(at_gate):
                    with _step(one.action, one.apqn):
                        one.happen()
                    work.at(f"{one.action} {one.apqn} done")
            guest.policy = policy

    def _write(self, work: Work, guest: Running, steps: Sequence[PlanStep], policy: Policy) -> None:
        """Check and write every step, and the end of each association that `policy` does not allow."""
        for step in steps:
            with _step(step.action, step.apqn):
                self._do(work, guest, step, policy)
            work.at(f"{step.action} {step.apqn} written")
        self._associations.release_forbidden(work, guest, policy)
        work.at("what is forbidden ended")

    def _do(self, work: Work, guest: Running, step: PlanStep, policy: Policy) -> None:
        if step.secret_id is not None:
            self._associations.associate(work, guest, step.apqn, step.secret_id, policy)
        elif step.action == "bind":
            self._associations.bind(work, guest, step.apqn, policy)
        else:
            self._associations.unbind(work, guest, step.apqn)


def _require_plan(steps: Sequence[PlanStep], seen: Sequence[SeenHsm] | None) -> None:
    """Raises Malformed for what is no step, comes twice, or is for an HSM that the planner has not seen."""
    if seen is not None and (blind := {one.apqn for one in steps} - {one.apqn for one in seen}):
        raise Malformed(f"the plan has a step for HSM {min(blind)} and does not say what it was seen as")
    places: set[tuple[str, Apqn]] = set()
    for step in steps:
        if step.action not in ORDER:
            raise Malformed(f"`{step.action}` is no step: it is `unbind`, `bind` or `associate`")
        if (step.action == "associate") is (step.secret_id is None):
            raise Malformed(
                f"`{step.action}` of HSM {step.apqn}: a secret id goes with `associate`, and only with it"
            )
        if (step.action, step.apqn) in places:
            raise Malformed(f"the plan has `{step.action} {step.apqn}` twice: once is enough")
        places.add((step.action, step.apqn))


def _require_as_seen(work: Work, guest: Running, seen: Sequence[SeenHsm]) -> None:
    """Raises ApError 3d unless every HSM is what the planner saw."""
    attached = frozenset(work.records.attached(guest.instance.id))
    held = work.storage.bindings(guest.instance.id)
    for one in seen:
        binding = held.get(one.apqn)
        now = State.UNBOUND if binding is None else binding.state
        if one.apqn not in attached:
            found = "not attached any more"
        elif now is not one.state:
            found = f"{now} now, and the plan was made when it was {one.state}"
        elif binding is not None and binding.secret_id != one.secret_id:
            found = "associated with another secret than when the plan was made"
        else:
            continue
        raise ApError(
            ApCode.PLAN_OUTDATED, f"HSM {one.apqn} is {found}; nothing of the plan is done, plan again"
        )


def _register(work: Work, instance: InstanceId, row: PolicyRow) -> None:
    """Raises Conflict for another policy than the one that is measured with the guest's image."""
    there = work.records.policy(instance)
    if there is None or not there.measured:
        work.records.put_policy(instance, row)
    elif row.text != there.text:
        raise Conflict(
            "this guest's policy is the one in its image: apply that (`keyvisor guest apply` without a file), "
            "or start the guest from an image with another one"
        )


def _in_gate_order(at_gate: Sequence[KeptBack]) -> tuple[KeptBack, ...]:
    """First the HSMs that the guest gets besides what it has, then those that it loses, then those that it gets again."""
    lost = {one.apqn for one in at_gate if one.action == "unbind"}
    return tuple(sorted(at_gate, key=lambda one: (one.apqn in lost, ORDER[one.action])))


@contextmanager
def _step(action: str, apqn: Apqn) -> Iterator[None]:
    """What is refused within says at which step, and that nothing is done."""
    try:
        yield
    except ApError as error:
        raise _at_step(error.code, action, apqn, error.message) from error
    except PartitionUnusable as error:
        # Alone, an association that failed has to be unbound; here, nothing is left of it.
        code = ApCode.ASSOCIATION_FAILED if action == "associate" else ApCode.BIND_ERROR
        what = "its key partition does not open" if action == "associate" else "the gate cannot serve it"
        raise _at_step(code, action, apqn, f"{what}; see what `keyvisor up` prints") from error


def _at_step(code: ApCode, action: str, apqn: Apqn, why: str) -> ApError:
    return ApError(code, f"at the step `{action} {apqn}`: {why}; nothing of the plan is done")
