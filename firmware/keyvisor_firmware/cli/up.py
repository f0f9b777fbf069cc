"""`keyvisor up`: run the firmware in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keyvisor_firmware.cli.options import StateOption
from keyvisor_policy.terminal import verb

app = verb("Run the firmware: its cards, its doors, its guests.")


@app.callback(invoke_without_command=True)
def up(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            help="The configuration. Without it the values of configs/keyvisor.yaml hold.",
        ),
    ] = None,
    state: StateOption = None,
) -> None:
    """Run the firmware until Ctrl-C or SIGTERM, which end all that it started.

    Prints one line when it is ready; log lines go to standard error.
    """
    from keyvisor_firmware import daemon
    from keyvisor_firmware.config import Config, load
    from keyvisor_guest.state_directory import state_directory

    daemon.run(state_directory(state), Config() if config is None else load(config))
