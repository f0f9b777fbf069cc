"""Why an HSM is what it is to a guest: every rule in order, what it looked at, and the one that decided.

Pure. `explain_association` answers as the firmware does, `explain_plan` as the guest does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from keyvisor_policy.errors import NotPermitted
from keyvisor_policy.hsms import Hsm, SecretId
from keyvisor_policy.inventory import Inventory
from keyvisor_policy.matching import secret_text
from keyvisor_policy.plan import Plan
from keyvisor_policy.policy import Policy
from keyvisor_policy.rules import Rule, Secret
from keyvisor_policy.strict_yaml.wording import shown
from keyvisor_policy.tracing import (
    Trace,
    against,
    against_secret,
    look,
    look_at_secret,
    look_at_store,
    passed_over,
)

DECIDES = "decides"


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer in one line, the rule that decided it (none where none allows it or has the HSM), and the trace."""

    apqn: str
    verdict: str
    decided: Rule | None
    traces: tuple[Trace, ...]


def explain_association(policy: Policy, hsm: Hsm, secret: Secret) -> Explanation:
    """Whether this secret may be associated with this HSM, and why."""
    what = f"{hsm.apqn}: secret {secret_text(secret)} is"
    given = secret.name if secret.name is not None else f"0x{secret.id.hex()}"
    try:
        decided = policy.permit(hsm, secret.id)
        verdict = f"{what} permitted by {_place(policy, decided)}"
    except NotPermitted:
        decided, verdict = None, f"{what} refused: no rule allows it"
    traces = tuple(
        Trace(
            rule,
            (look_at_secret(rule, secret.id, given), *look(rule, hsm)),
            DECIDES if rule is decided else against_secret(rule, hsm, secret.id) or "would allow it too",
        )
        for rule in policy.rules
    )
    return Explanation(hsm.apqn, verdict, decided, traces)


def explain_plan(
    policy: Policy, inventory: Inventory, secrets: Collection[SecretId], hsm: Hsm
) -> Explanation:
    """What the plan does with one HSM of the inventory, and why not otherwise. Raises InventoryRefused as `assign` does."""
    held = frozenset(secrets)
    plan = policy.assign(inventory.hsms, held, inventory.current)
    outcome = next(outcome for outcome in plan.hsms if outcome.apqn == hsm.apqn)
    if outcome.rule is not None:
        doing = ", ".join(outcome.actions) or "keep"
        verdict = f"{hsm.apqn}: {doing} for {_place(policy, outcome.rule)}"
    else:
        verdict = f"{hsm.apqn}: {', '.join(outcome.actions) or 'left unbound'}, no rule gets it"
    traces = tuple(_traces(policy, plan, held, hsm, outcome.rule))
    return Explanation(hsm.apqn, verdict, outcome.rule, traces)


def _traces(
    policy: Policy, plan: Plan, held: frozenset[SecretId], hsm: Hsm, decided: Rule | None
) -> Iterator[Trace]:
    for rule, outcome in zip(policy.rules, plan.rules, strict=True):
        looked = (*look_at_store(rule, held), *look(rule, hsm))
        if rule is decided:
            yield Trace(rule, looked, DECIDES)
            continue
        yield Trace(rule, looked, against(rule, hsm, held) or passed_over(outcome, decided))


def _place(policy: Policy, rule: Rule) -> str:
    return f"rule {shown(rule.name)}, {policy.source}:{rule.line}"
