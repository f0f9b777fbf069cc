"""`keyvisor policy plan`: what a policy would do with HSMs from a file; also as pvapconfig itself would do it.

Prints what `policy` and `compat` answer and ends with the exit code; decides nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyvisor_policy import cli_arguments
from keyvisor_policy.cli_arguments import Json, Secrets, loaded, there_are
from keyvisor_policy.terminal import fail

if TYPE_CHECKING:
    from keyvisor_policy.hsms import SecretId
    from keyvisor_policy.inventory import Inventory
    from keyvisor_policy.plan import Plan
    from keyvisor_policy.policy import Policy

COMPAT = ("pvapconfig-2.43",)


def plan(
    inventory: cli_arguments.Inventory,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", exists=True, dir_okay=False, help="A policy file.", show_default=False
        ),
    ] = None,
    secrets: Secrets = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Apply what can be met; without it: all or nothing.")
    ] = False,
    strict: Annotated[
        bool | None,
        typer.Option(
            "--strict/--no-strict",
            help="With --partial or --compat: whether an unmet rule ends with 1. Without --compat it does.",
            show_default=False,
        ),
    ] = None,
    unbind: Annotated[
        bool, typer.Option("--unbind", help="Take no policy: plan to unbind every HSM that is bound.")
    ] = False,
    compat: Annotated[
        str | None,
        typer.Option(
            metavar="PROGRAM",
            help="Show what pvapconfig itself would do with its list, step by step: pvapconfig-2.43.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say which HSM each rule would get, what would be done, and why a rule gets none.

    Exit code 0: every rule is met. 1: one is not, or a file is wrong. 2: wrong command line. With --compat: that program's own.
    """
    _agree(file, compat, partial=partial, strict=strict, unbind=unbind)
    if file is None:
        _unbinding(there_are(inventory), as_json=as_json)
        return
    (policy,) = loaded(file)
    there = there_are(inventory)
    held = cli_arguments.held([policy], secrets)
    if compat is not None:
        _compat(file, inventory, policy, there, held, strict=bool(strict), as_json=as_json)
        return
    made = _assigned(inventory, policy, there, held)
    _show(made, partial=partial, as_json=as_json)
    if not made.met and (strict is not False or not partial):
        raise typer.Exit(1)


def _agree(
    file: Path | None, compat: str | None, *, partial: bool, strict: bool | None, unbind: bool
) -> None:
    """Which options go together; the rest is a wrong command line."""
    if compat is not None and compat not in COMPAT:
        raise typer.BadParameter(f"expected {COMPAT[0]}", param_hint="--compat")
    if unbind and (file is not None or compat is not None or partial or strict is not None):
        raise typer.BadParameter("goes with no policy and no other way to plan", param_hint="--unbind")
    if file is None and not unbind:
        raise typer.BadParameter("a policy is needed, or --unbind", param_hint="FILE")
    if compat is not None and partial:
        raise typer.BadParameter(f"{compat} knows no other way", param_hint="--partial")


def _assigned(inventory: Path, policy: Policy, there: Inventory, held: set[SecretId]) -> Plan:
    from keyvisor_policy.errors import InventoryRefused

    try:
        return policy.assign(there.hsms, held, there.current)
    except InventoryRefused as error:
        fail(f"{inventory}: {error}")


def _show(made: Plan, *, partial: bool, as_json: bool) -> None:
    from keyvisor_policy.plan_table import print_plan

    print_plan(made, as_json=as_json, applies=made.met or partial)


def _unbinding(there: Inventory, *, as_json: bool) -> None:
    from keyvisor_policy.plan import unbinding
    from keyvisor_policy.plan_table import print_plan

    print_plan(unbinding(there.hsms, there.current), as_json=as_json, applies=True)


def _compat(
    file: Path,
    inventory: Path,
    policy: Policy,
    there: Inventory,
    held: set[SecretId],
    *,
    strict: bool,
    as_json: bool,
) -> None:
    from keyvisor_policy.compat import pvapconfig_plan
    from keyvisor_policy.compat_table import print_compat
    from keyvisor_policy.errors import InventoryRefused

    if policy.grammar != "pvapconfig":
        fail(f"{file}: pvapconfig takes a bare list only, and this is a policy; leave `--compat` out")
    try:
        made = pvapconfig_plan(policy.rules, there.hsms, held, there.current, strict=strict)
    except InventoryRefused as error:
        fail(f"{inventory}: {error}")
    print_compat(made, as_json=as_json)
    if made.exit_code:
        raise typer.Exit(made.exit_code)
