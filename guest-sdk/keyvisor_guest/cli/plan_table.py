"""How a plan is shown, as `keyvisor policy plan` shows it: what is done to each HSM, and why a rule is unmet."""

from __future__ import annotations

from collections.abc import Iterator

from keyvisor_guest.cli.options import show
from keyvisor_policy import HsmOutcome, Plan, RuleOutcome

__all__ = ["show_plan"]


def show_plan(plan: Plan, *, as_json: bool) -> None:
    """Print a plan, as a table or as JSON."""
    columns = ("rule", "HSM", "action", "reason")
    show(_value(plan), columns, list(_rows(plan)), as_json=as_json, empty="the policy has no rules")


def _rows(plan: Plan) -> Iterator[tuple[str, str, str, str]]:
    for outcome in plan.rules:
        name = outcome.rule.name
        for hsm in outcome.hsms:
            yield name, hsm.apqn, _doing(hsm), ""
        for reason in outcome.reasons:
            yield name, reason.apqn or "", "unmet", str(reason.mismatch)
    for hsm in plan.hsms:
        if hsm.rule is None and hsm.actions:
            yield "", hsm.apqn, _doing(hsm), "no rule wants it"


def _doing(hsm: HsmOutcome) -> str:
    return ", ".join(hsm.actions) or "keep"


def _value(plan: Plan) -> dict[str, object]:
    return {
        "met": plan.met,
        "rules": [_rule(outcome) for outcome in plan.rules],
        "hsms": [
            {"apqn": hsm.apqn, "rule": hsm.rule.name if hsm.rule else None, "actions": list(hsm.actions)}
            for hsm in plan.hsms
        ],
        "steps": [
            {
                "action": step.action,
                "apqn": step.apqn,
                "secret_id": step.secret_id.hex() if step.secret_id is not None else None,
            }
            for step in plan.steps
        ],
    }


def _rule(outcome: RuleOutcome) -> dict[str, object]:
    return {
        "name": outcome.rule.name,
        "line": outcome.rule.line,
        "count": "all" if outcome.rule.count is None else outcome.rule.count,
        "met": outcome.met,
        "hsms": [hsm.apqn for hsm in outcome.hsms],
        "kept": list(outcome.kept),
        "reasons": [
            {"apqn": reason.apqn, "field": reason.mismatch.field, "message": reason.mismatch.message}
            for reason in outcome.reasons
        ],
    }
