"""How pvapconfig's own plan is shown: what becomes of each entry, then its steps in order, then its exit code.

Prints; decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from keyvisor_policy.compat import PVAPCONFIG, EntryOutcome, PvapconfigPlan
from keyvisor_policy.matching import secret_text
from keyvisor_policy.plan import Step
from keyvisor_policy.rules import Secret
from keyvisor_policy.strict_yaml.wording import escaped
from keyvisor_policy.terminal import print_json, print_table

TIES = "HSMs of one generation are tried in the order of card and domain here; that program leaves their order open"


def print_compat(plan: PvapconfigPlan, *, as_json: bool) -> None:
    """Print that program's plan on standard output, as tables or as JSON."""
    if as_json:
        print_json(_value(plan))
        return
    print_table(("entry", "name", "HSM", "result", "reason"), list(_rows(plan)), "the list has no entries")
    print()
    print_table(("step", "action", "HSM", "secret"), list(_step_rows(plan)), "no steps")
    print()
    if _tied(plan):
        print(TIES)
    print(
        f"{PVAPCONFIG}: {plan.applied} of {len(plan.entries)} entries kept or applied, exit code {plan.exit_code}"
    )


def _rows(plan: PvapconfigPlan) -> Iterator[tuple[str, str, str, str, str]]:
    for entry in plan.entries:
        number, name = str(entry.number), escaped(entry.rule.name)
        if entry.hsm is not None:
            yield number, name, entry.hsm.apqn, entry.result, ""
        for reason in plan.reasons(entry):
            yield number, name, reason.apqn or "", entry.result, str(reason.mismatch)


def _step_rows(plan: PvapconfigPlan) -> Iterator[tuple[str, str, str, str]]:
    secrets = _secrets(plan)
    for number, step in enumerate(plan.steps, 1):
        secret = "" if step.secret_id is None else secret_text(secrets[step.secret_id])
        yield str(number), step.action, step.apqn, secret


def _secrets(plan: PvapconfigPlan) -> dict[bytes, Secret]:
    return {
        entry.rule.secret.id: entry.rule.secret for entry in plan.entries if entry.rule.secret is not None
    }


def _tied(plan: PvapconfigPlan) -> bool:
    """Whether that program's order of HSMs is not determined by what is documented."""
    kinds = [(hsm.mode, hsm.generation) for hsm in plan.hsms]
    return len(set(kinds)) < len(kinds)


def _value(plan: PvapconfigPlan) -> dict[str, object]:
    return {
        "compat": PVAPCONFIG,
        "exit_code": plan.exit_code,
        "applied": plan.applied,
        "order_is_open": _tied(plan),
        "entries": [_entry(plan, entry) for entry in plan.entries],
        "steps": [_step(step) for step in plan.steps],
    }


def _entry(plan: PvapconfigPlan, entry: EntryOutcome) -> dict[str, object]:
    return {
        "entry": entry.number,
        "name": entry.rule.name,
        "line": entry.rule.line,
        "result": entry.result,
        "apqn": entry.hsm.apqn if entry.hsm is not None else None,
        "reasons": [
            {"apqn": reason.apqn, "field": reason.mismatch.field, "message": reason.mismatch.message}
            for reason in plan.reasons(entry)
        ],
    }


def _step(step: Step) -> dict[str, object]:
    return {
        "action": step.action,
        "apqn": step.apqn,
        "secret_id": step.secret_id.hex() if step.secret_id is not None else None,
    }
