"""`keyvisor policy explain`: the trace of one HSM through a policy's rules, or of one call through its control points.

Prints what `explaining` answers; decides nothing. Calls are `cli_explain_call`'s affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keyvisor_policy.cli_arguments import (
    INVENTORY_HELP,
    File,
    Json,
    Secrets,
    held,
    loaded,
    secret_of,
    there_are,
)
from keyvisor_policy.terminal import fail, print_json, print_table, printable

if TYPE_CHECKING:
    from keyvisor_policy.explaining import Explanation
    from keyvisor_policy.hsms import Hsm
    from keyvisor_policy.tracing import Trace


def explain(
    file: File,
    hsm: Annotated[
        str | None, typer.Option(metavar="APQN", help="The HSM to look at, as in 03.0011.")
    ] = None,
    inventory: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help=INVENTORY_HELP)] = None,
    secret: Annotated[
        str | None,
        typer.Option(
            help="Explain whether this secret, a name or an id behind 0x, may be associated with the HSM."
        ),
    ] = None,
    secrets: Secrets = None,
    call: Annotated[
        str | None, typer.Option(metavar="C_X", help="The call to look at instead, as in C_SignInit.")
    ] = None,
    mechanism: Annotated[
        str | None, typer.Option(metavar="CKM_X", help="The call's mechanism, if it has one.")
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(metavar="CKA_X=VALUE", help="What the call would make or change; may be given again."),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="CKA_X=VALUE", help="The key that the call uses; may be given again."),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(metavar="RULE", help="The association that the call's HSM is held through."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a policy makes of one HSM or of one call, and why: every rule, every field, and the line that decides.

    With --hsm and --inventory: what the plan does with the HSM; with --secret too, whether the firmware would allow the
    association. With --call: whether an application may ask it of an HSM, and what it gets if not.

    Exit code 0: explained. 1: a file is wrong. 2: wrong command line.
    """
    of_hsm = {"--hsm": hsm, "--inventory": inventory, "--secret": secret, "--secrets": secrets}
    of_call = {"--mechanism": mechanism, "--template": template, "--key": key, "--on": on}
    _require_none(of_call if call is None else of_hsm, call)
    if call is not None:
        from keyvisor_policy.cli_explain_call import explain_call, question_of

        (policy,) = loaded(file)
        explain_call(policy, question_of(policy, call, mechanism, template, key, on), as_json=as_json)
        return
    if hsm is None or inventory is None:
        raise typer.BadParameter("give both, or --call", param_hint="--hsm, --inventory")
    _explain_hsm(file, hsm, inventory, secret, secrets, as_json=as_json)


def _require_none(unwanted: Mapping[str, object], call: str | None) -> None:
    given = [option for option, value in unwanted.items() if value]
    if given:
        words = "is about an HSM; leave it out" if call is not None else "is about a call; give --call"
        raise typer.BadParameter(words, param_hint=", ".join(given))


def _explain_hsm(
    file: Path, hsm: str, inventory: Path, secret: str | None, secrets: list[str] | None, *, as_json: bool
) -> None:
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
