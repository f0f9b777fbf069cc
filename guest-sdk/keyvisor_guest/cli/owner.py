"""`keyvisor owner`: the owner's verbs, for a trusted machine of theirs. Needs no firmware and no door."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from keyvisor_guest.cli import owner_attest, owner_image, owner_request
from keyvisor_guest.cli.options import JsonOption
from keyvisor_guest.cli.owner_files import (
    identity_fields,
    identity_json,
    print_fields,
    read_limited,
    write_private,
)
from keyvisor_guest.wire.messages import MAX_IMAGE
from keyvisor_guest.wire.se_image import identity_of
from keyvisor_policy.terminal import verb

app = verb("Make what a guest's owner makes, away from the machine.", group=True)
app.add_typer(owner_image.app, name="image")
app.add_typer(owner_request.app, name="request")
app.add_typer(owner_attest.app, name="attest")


@app.callback()
def owner() -> None:
    """Make what a guest's owner makes, away from the machine."""


@app.command()
def identity(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="The image as you built it, or its header.",
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
    """The boot identity that an image's header states: take your own copy, not one that a host gives you."""
    stated = owner_image.understood(file, identity_of, read_limited(file, MAX_IMAGE, "an image"))
    text = identity_json(stated)
    if output is not None:
        write_private([(output, text.encode())], force=force)
    if as_json:
        sys.stdout.write(text)
    elif output is None:
        print_fields(identity_fields(stated))
