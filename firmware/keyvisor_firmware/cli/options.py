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
