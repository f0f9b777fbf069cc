"""How `keyvisor guest apply` shows what it did, or would do, on standard output. Prints; decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyvisor_guest.planning import AppliedPlan, GuestPlan
from keyvisor_policy.plan_table import plan_value, print_plan
from keyvisor_policy.terminal import print_json, print_table

if TYPE_CHECKING:
    from keyvisor_policy import HsmOutcome


def print_planned(plan: GuestPlan, *, applies: bool | None, as_json: bool) -> None:
    """A plan that was not applied; `applies` as `print_plan` has it."""
    if as_json and plan.left:
        told = {} if applies is None else {"applies": applies}
        print_json(plan_value(plan) | told | {"left": list(plan.left)})
        return
    print_plan(plan, as_json=as_json, applies=applies)
    if not as_json:
        _say_left(plan)


def print_applied(plan: AppliedPlan, *, as_json: bool) -> None:
    """A plan that was applied: why a rule is unmet, and per HSM what it was, what was done and what it is now."""
    if as_json:
        done = [
            {"apqn": apqn, "was": was, "done": done, "is": now} for apqn, was, done, now in _changes(plan)
        ]
        print_json(plan_value(plan) | {"applied": True, "left": list(plan.left), "done": done})
        return
    print_plan(plan, as_json=False)
    print()
    rows = [(apqn, was, ", ".join(done) or "nothing", now) for apqn, was, done, now in _changes(plan)]
    print_table(("HSM", "was", "done", "is now"), rows, "no HSM is attached")
    _say_left(plan)


def _changes(plan: AppliedPlan) -> list[tuple[str, str, list[str], str]]:
    """Per HSM that was there: APQN, state before, what was done, state now."""
    outcomes: dict[str, HsmOutcome] = {outcome.apqn: outcome for outcome in plan.hsms}
    now = {hsm.apqn: hsm.state for hsm in plan.now}
    return [
        (hsm.apqn, hsm.state, list(outcomes[hsm.apqn].actions), now.get(hsm.apqn, "detached"))
        for hsm in plan.seen
    ]


def _say_left(plan: GuestPlan) -> None:
    if plan.left:
        stay = "stays as it is" if len(plan.left) == 1 else "stay as they are"
        print(f"{', '.join(plan.left)} {stay}: no rule wants it; `--unbind` unbinds it")
