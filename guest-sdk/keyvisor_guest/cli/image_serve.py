"""`keyvisor image serve`: a secure image over NBD, for programs that read block devices."""

from __future__ import annotations

import select
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from keyvisor_guest.cli.image_key_options import KeyOptions, with_key_options
from keyvisor_guest.cli.image_places import ArchitectureOption, AuthFileOption, InsecureHttpOption
from keyvisor_guest.cli.image_progress import bars
from keyvisor_guest.cli.image_refusals import Refusals
from keyvisor_guest.cli.image_run import ReferenceArgument, found_image, opened_image
from keyvisor_guest.cli.options import JsonOption
from keyvisor_guest.containers.nbd_server import NbdServer, served_image
from keyvisor_guest.containers.running.supervising import Signals
from keyvisor_policy.terminal import print_json, printable

__all__ = ["serve"]


@with_key_options
def serve(
    keys: KeyOptions,
    image: ReferenceArgument,
    nbd: Annotated[
        Path,
        typer.Option(
            "--nbd", metavar="SOCKET", help="The Unix socket to serve on, in a directory that is yours alone."
        ),
    ],
    architecture: ArchitectureOption = "",
    authfile: AuthFileOption = None,
    insecure_http: InsecureHttpOption = False,
    as_json: JsonOption = False,
) -> None:
    """Serve the volume of a secure image in clear over NBD, read-only, until a signal ends it.

    Key, order of layers, config and version are verified first. A block that is not as it was built is an I/O error to
    its reader, and is told on standard error.
    """
    with Signals() as signals:
        with (
            bars(quiet=as_json) as tell,
            found_image(image, architecture, authfile, insecure_http, tell) as (layout, found),
        ):
            reader = opened_image(layout, found, keys)
        with reader, NbdServer(served_image(reader), nbd.absolute(), on_refused=Refusals()):
            signals.hold()
            uri = f"nbd+unix:///?socket={quote(str(nbd.absolute()))}"
            if as_json:
                print_json({"uri": uri, "size": reader.size, "root": reader.root.hex()})
            else:
                print(f"ready: {printable(uri)}")
            sys.stdout.flush()
            select.select([signals.waiting], [], [])
