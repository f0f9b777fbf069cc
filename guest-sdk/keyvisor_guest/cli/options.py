"""The options that several verbs have, and how a verb shows its data: one way for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from keyvisor_guest.names import GUEST_VARIABLE
from keyvisor_guest.state_directory import STATE_VARIABLE
from keyvisor_policy.terminal import print_json, print_table

__all__ = ["ApqnArgument", "GuestOption", "InputFile", "JsonOption", "StateOption", "show"]

StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        envvar=STATE_VARIABLE,
        help="The state directory. Without it /var/lib/keyvisor for root, else $XDG_STATE_HOME/keyvisor.",
    ),
]
GuestOption = Annotated[
    str, typer.Option("--guest", metavar="NAME", envvar=GUEST_VARIABLE, help="The guest.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
ApqnArgument = Annotated[
    str, typer.Argument(metavar="APQN", help="The HSM: card.domain in hex, as in 03.0011.")
]
InputFile = typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True)


def show(
    value: Mapping[str, object],
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    as_json: bool,
    empty: str = "nothing to show",
) -> None:
    """Print `value` as JSON, or `rows` as a table; `empty` where there are none."""
    if as_json:
        print_json(value)
    else:
        print_table(columns, rows, empty)
