"""How a plan is shown, by whatever verb shows one: what is done to each HSM, and why a rule is unmet.

Prints; decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from keyvisor_policy.plan import SUMMARY_HSMS, HsmOutcome, Plan, RuleOutcome
from keyvisor_policy.strict_yaml.wording import escaped
from keyvisor_policy.terminal import print_json, print_table

MOST_HSMS = 32  # of which a table has every reason of every rule; of more, those of the HSMs that lack least


def print_plan(plan: Plan, *, as_json: bool, applies: bool | None = None) -> None:
    """Print a plan on standard output, as a table or as JSON.

    `applies` says whether its steps would be applied; where it is given, an unmet plan says what becomes of them.
    """
    if as_json:
        print_json(plan_value(plan) | ({} if applies is None else {"applies": applies}))
        return
    print_table(("rule", "HSM", "action", "reason"), list(_rows(plan)), "there is nothing to do")
    if applies is not None and not plan.met:
        print(_applying(plan, applies))


def _applying(plan: Plan, applies: bool) -> str:
    unmet = f"{len(plan.unmet)} of {len(plan.rules)} rules {'is' if len(plan.unmet) == 1 else 'are'} unmet"
    if not applies:
        return f"nothing would be applied: {unmet}; `--partial` applies the rest"
    steps = len(plan.steps)
    return f"{steps} step{'' if steps == 1 else 's'} would be applied; {unmet}"


def _rows(plan: Plan) -> Iterator[tuple[str, str, str, str]]:
    few = len(plan.hsms) <= MOST_HSMS
    for outcome in plan.rules:
        name = escaped(outcome.rule.name)
        for hsm in outcome.hsms:
            yield name, hsm.apqn, _doing(hsm), ""
        reasons, more = (outcome.reasons, 0) if few else outcome.likeliest(SUMMARY_HSMS)
        for reason in reasons:
            yield name, reason.apqn or "", "unmet", str(reason.mismatch)
        if more:
            yield name, "", "unmet", f"{more} more HSMs do not match either"
    for hsm in plan.hsms:
        if hsm.rule is None and hsm.actions:
            yield "", hsm.apqn, _doing(hsm), "no rule wants it"


def _doing(hsm: HsmOutcome) -> str:
    return ", ".join(hsm.actions) or "keep"


def plan_value(plan: Plan) -> dict[str, object]:
    """A plan as JSON has it."""
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
