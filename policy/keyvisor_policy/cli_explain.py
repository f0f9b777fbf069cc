"""`keyvisor policy explain`: the trace of one HSM through a policy's rules.

Prints what `explaining` answers; decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from keyvisor_policy.cli_arguments import File, Inventory, Json, Secrets, held, loaded, secret_of, there_are
from keyvisor_policy.terminal import fail, print_json, print_table, printable

if TYPE_CHECKING:
    from keyvisor_policy.explaining import Explanation
    from keyvisor_policy.hsms import Hsm
    from keyvisor_policy.tracing import Trace


def explain(
    file: File,
    hsm: Annotated[str, typer.Option(metavar="APQN", help="The HSM to look at, as in 03.0011.")],
    inventory: Inventory,
    secret: Annotated[
        str | None,
        typer.Option(
            help="Explain whether this secret, a name or an id behind 0x, may be associated with the HSM."
        ),
    ] = None,
    secrets: Secrets = None,
    as_json: Json = False,
) -> None:
    """Say what a policy makes of one HSM and why: each rule, each field, and the line that decides.

    Without --secret: what the plan does with the HSM. With it: whether the firmware would allow the association.
    Exit code 0: explained. 1: a file is wrong. 2: wrong command line.
    """
    from keyvisor_policy.errors import InventoryRefused
    from keyvisor_policy.explaining import explain_association, explain_plan

    if secret is not None and secrets is not None:
        raise typer.BadParameter(
            "what the guest holds does not matter to the firmware's answer", param_hint="--secrets"
        )
    (policy,) = loaded(file)
    there = there_are(inventory)
    try:
        looked_at = _named(there.hsms, hsm)
        if secret is not None:
            explanation = explain_association(policy, looked_at, secret_of(secret, "--secret"))
        else:
            explanation = explain_plan(policy, there, held([policy], secrets), looked_at)
    except InventoryRefused as error:
        fail(f"{inventory}: {error}")
    if as_json:
        print_json(_value(explanation))
    else:
        _print(explanation)


def _named(hsms: tuple[Hsm, ...], text: str) -> Hsm:
    from keyvisor_policy import fields
    from keyvisor_policy.strict_yaml.wording import listed

    try:
        apqn = fields.apqn(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--hsm") from None
    found = next((hsm for hsm in hsms if hsm.apqn == apqn), None)
    if found is None:
        there = sorted(hsm.apqn for hsm in hsms)
        known = f"name {listed(there)}" if there else "it is empty"
        raise typer.BadParameter(f"{apqn} is not in the inventory; {known}", param_hint="--hsm")
    return found


def _print(explanation: Explanation) -> None:
    from keyvisor_policy.strict_yaml.wording import escaped

    print(printable(explanation.verdict))
    print()
    outcomes = [
        (escaped(trace.rule.name), str(trace.rule.line), trace.outcome) for trace in explanation.traces
    ]
    print_table(("rule", "line", "outcome"), outcomes, "the policy has no rules")
    if explanation.traces:
        print()
        rows = [row for trace in explanation.traces for row in _rows(trace)]
        print_table(("rule", "field", "wanted", "found", ""), rows)


def _rows(trace: Trace) -> list[tuple[str, str, str, str, str]]:
    from keyvisor_policy.strict_yaml.wording import escaped

    return [
        (
            escaped(trace.rule.name),
            looked.field,
            escaped(looked.wanted),
            escaped(looked.found),
            _truth(looked.holds),
        )
        for looked in trace.looked
    ]


def _truth(holds: bool) -> str:
    return "true" if holds else "false"


def _value(explanation: Explanation) -> dict[str, Any]:
    decided = explanation.decided
    return {
        "apqn": explanation.apqn,
        "verdict": explanation.verdict,
        "rule": None if decided is None else decided.name,
        "line": None if decided is None else decided.line,
        "rules": [
            {
                "name": trace.rule.name,
                "line": trace.rule.line,
                "outcome": trace.outcome,
                "matches": trace.holds,
                "fields": [
                    {
                        "field": looked.field,
                        "wanted": looked.wanted,
                        "found": looked.found,
                        "holds": looked.holds,
                    }
                    for looked in trace.looked
                ],
            }
            for trace in explanation.traces
        ],
    }
