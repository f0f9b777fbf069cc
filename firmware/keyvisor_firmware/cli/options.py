"""The options that the firmware's verbs have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keyvisor_guest.state_directory import STATE_VARIABLE

StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="DIR",
        envvar=STATE_VARIABLE,
        help="The state directory. Without it /var/lib/keyvisor for root, else $XDG_STATE_HOME/keyvisor.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def verb(help_text: str, *, group: bool = False) -> typer.Typer:
    """The app of one verb. With `group` it has commands, and shows its help where none is given."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=group,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
