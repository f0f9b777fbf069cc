"""`keyvisor owner`: the owner's verbs, for a trusted machine of theirs. Needs no firmware and no door."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from keyvisor_guest.cli import owner_attest, owner_request
from keyvisor_guest.cli.options import JsonOption
from keyvisor_guest.cli.owner_files import (
    identity_fields,
    identity_json,
    print_fields,
    read_limited,
    write_private,
)
from keyvisor_guest.owner import measure
from keyvisor_guest.wire.messages import MAX_IMAGE
from keyvisor_policy.terminal import verb

app = verb("Make what a guest's owner makes, away from the machine.", group=True)
app.add_typer(owner_request.app, name="request")
app.add_typer(owner_attest.app, name="attest")


@app.callback()
def owner() -> None:
    """Make what a guest's owner makes, away from the machine."""


@app.command()
def identity(
    content_file: Annotated[
        Path,
        typer.Argument(
            metavar="CONTENT_FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="Your own copy of what is started.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", dir_okay=False, help="Write it there, as requests take it."
        ),
    ] = None,
    as_json: JsonOption = False,
    force: owner_request.ForceOption = False,
) -> None:
    """Measure the boot identity of a guest's definition, without believing the host anything."""
    measured = measure(read_limited(content_file, MAX_IMAGE, "a guest's definition"))
    text = identity_json(measured)
    if output is not None:
        write_private([(output, text.encode())], force=force)
    if as_json:
        sys.stdout.write(text)
    elif output is None:
        print_fields(identity_fields(measured))
