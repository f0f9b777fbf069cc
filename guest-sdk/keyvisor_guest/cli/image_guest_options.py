"""The options of verbs that run beside a guest: which guest, and which of its secrets carries the image's key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keyvisor_guest.cli.image_key_options import KeyOptions
from keyvisor_guest.containers.firmware_keys import release_from_secret
from keyvisor_guest.containers.oci.secure_image import SecureManifest
from keyvisor_guest.containers.release import Release
from keyvisor_guest.names import GUEST_VARIABLE

__all__ = ["GuestForImage", "SecretOption", "release_for"]

GuestForImage = Annotated[
    str | None,
    typer.Option(
        "--guest",
        metavar="NAME",
        envvar=GUEST_VARIABLE,
        help="The guest that it belongs to: its secret store has the key.",
        show_default=False,
    ),
]
SecretOption = Annotated[
    str,
    typer.Option("--secret", metavar="NAME", help="The guest's retrievable secret that carries the release."),
]


def release_for(
    keys: KeyOptions, manifest: SecureManifest, guest: str | None, secret: str, state: Path
) -> Release:
    """As the key options say; without any from the guest's secret. Raises BadParameter, KeyRefused, NotRunning, Refused."""
    if keys.given:
        return keys.release(manifest)
    if guest is None:
        raise typer.BadParameter(
            "with which key? give --guest NAME, whose secret store has it, or --key FILE"
        )
    from keyvisor_guest.guest import Guest

    return release_from_secret(Guest(guest, state=state).secrets, secret)
