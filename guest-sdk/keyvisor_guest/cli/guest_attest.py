"""`keyvisor guest attest`: have the firmware measure this guest for whoever made the request. Mirrors `pvattest perform`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from keyvisor_guest.cli.options import GuestOption, StateOption


def attest(
    request: Annotated[
        Path,
        typer.Option(
            "-i",
            "--input",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="The request, from `keyvisor owner attest create`.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", dir_okay=False, help="Write the answer there."),
    ],
    guest: GuestOption,
    user_data: Annotated[
        Path | None,
        typer.Option(
            "-u",
            "--user-data",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="Up to 256 bytes of the guest's own that are measured too.",
        ),
    ] = None,
    state: StateOption = None,
) -> None:
    """Have this instance measured, for whoever made the request."""
    from keyvisor_guest.cli.owner_files import read_limited
    from keyvisor_guest.guest import Guest
    from keyvisor_guest.wire.attestation_file import MAX_FILE, MAX_USER_DATA, AttestationFile
    from keyvisor_guest.wire.errors import Malformed

    try:
        asked = AttestationFile.decode(read_limited(request, MAX_FILE, "an attestation request"))
    except Malformed as error:
        raise Malformed(f"`{request}`: {error}") from error
    own = b"" if user_data is None else read_limited(user_data, MAX_USER_DATA, "user data")
    found = Guest(guest, state=state).attest(
        asked.request,
        own,
        measurement_length=asked.expected.get("measurement"),
        additional_length=asked.expected.get("additional"),
    )
    answer = replace(
        asked,
        measurement=found.measurement,
        additional=found.additional,
        user_data=own,
        cuid=found.cuid,
        expected={},
    )
    output.write_bytes(answer.encode())
