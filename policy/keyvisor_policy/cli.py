"""The verb `keyvisor policy`: check policies and see what they would do, without a firmware.

Prints what the package's functions answer and ends with their exit code; decides nothing. What is heavy is
imported by the verb that needs it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from keyvisor_policy.terminal import fail, print_json, verb

if TYPE_CHECKING:
    from keyvisor_policy.errors import DocumentError
    from keyvisor_policy.hsms import SecretId
    from keyvisor_policy.lint import Remark
    from keyvisor_policy.policy import Policy

app = verb("Check policies and see what they would do, without a firmware.", group=True)

File = Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A policy file.")]
Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", exists=True, dir_okay=False, help="Policy files.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def check(files: Files, as_json: Json = False) -> None:
    """Say what is wrong with policies: syntax, types, and rules that can surely not do what they say.

    Exit code 0: nothing. 1: findings. 2: wrong command line.
    """
    remarks = [remark for file in files for remark in _remarks(file)]
    if as_json:
        print_json([_remark_json(remark) for remark in remarks])
    for remark in () if as_json else remarks:
        print(remark)
    if remarks:
        raise typer.Exit(1)


@app.command()
def plan(
    file: File,
    inventory: Annotated[
        Path,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="The HSMs, YAML or JSON; also what `keyvisor guest hsms --json` prints.",
        ),
    ],
    secrets: Annotated[
        list[str] | None,
        typer.Option(
            help="The secrets that the guest holds: names or ids, with commas or given again. All if left out."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say which HSM each rule would get, what would be done, and why a rule gets none.

    Exit code 0: every rule is met. 1: one is not, or a file is wrong. 2: wrong command line.
    """
    from keyvisor_policy.errors import DocumentError, InventoryRefused
    from keyvisor_policy.inventory import parse_inventory
    from keyvisor_policy.loading import load
    from keyvisor_policy.plan_table import print_plan
    from keyvisor_policy.strict_yaml import read_file

    try:
        policy = load(file)
        there = parse_inventory(read_file(inventory), str(inventory))
        made = policy.assign(there.hsms, _held(policy, secrets), there.current)
    except DocumentError as error:
        _refuse(error)
    except InventoryRefused as error:
        fail(f"{inventory}: {error}")
    print_plan(made, as_json=as_json)
    if not made.met:
        raise typer.Exit(1)


def _remarks(file: Path) -> list[Remark]:
    from keyvisor_policy.errors import DocumentError
    from keyvisor_policy.lint import Remark, check
    from keyvisor_policy.loading import load

    try:
        return list(check(load(file)))
    except DocumentError as error:
        return [Remark("invalid", finding) for finding in error.findings]


def _refuse(error: DocumentError) -> NoReturn:
    for finding in error.findings:
        print(f"error: {finding}", file=sys.stderr)
    raise typer.Exit(1)


def _held(policy: Policy, secrets: list[str] | None) -> set[SecretId]:
    """The ids of the secrets given; of every secret that the policy names where none are."""
    if secrets is None:
        return {rule.secret.id for rule in policy.rules if rule.secret is not None}
    return {_id_of(part.strip()) for text in secrets for part in text.split(",") if part.strip()}


def _id_of(text: str) -> SecretId:
    from keyvisor_policy import fields
    from keyvisor_policy.hsms import secret_id

    try:
        return fields.secret_id(text) if text.startswith("0x") else secret_id(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--secrets") from None


def _remark_json(remark: Remark) -> dict[str, Any]:
    finding = remark.finding
    return {
        "file": finding.source,
        "line": finding.line,
        "column": finding.column,
        "code": remark.code,
        "message": finding.message,
    }
