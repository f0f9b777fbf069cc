"""The verb that verifies a request's user data: for owners, and in a guest, as `pvsecret verify` is (formats, G).

Needs no host key and no firmware; the rules are those of `keyvisor_guest.wire.user_data`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from keyvisor_guest.cli.owner_files import read_limited, write_private
from keyvisor_guest.cli.request_options import ForceOption, file_option, output_option
from keyvisor_guest.wire.asrcb_layout import MAX_REQUEST, UserDataKind
from keyvisor_guest.wire.errors import UserDataUnverified
from keyvisor_guest.wire.key_files import MAX_KEY_FILE
from keyvisor_guest.wire.user_data import carried, unsigned, verify

__all__ = ["verify_command"]


def verify_command(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True)
    ] = None,
    input_file: Annotated[
        Path | None, file_option("-i", "--input", text="The request; or give it as FILE.")
    ] = None,
    user_cert: Annotated[
        Path | None,
        file_option("--user-cert", text="The certificate or public key of who must have signed the request."),
    ] = None,
    output: Annotated[
        Path | None,
        output_option("-o", "--output", text="Write the user data there, not to standard output."),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Verify who signed a request, and print its user data. Who made the certificate is not checked.

    Without --user-cert only a request whose user data is not signed passes: its form is looked at, and said so.
    """
    if (file is None) == (input_file is None):
        raise typer.BadParameter("which request? give it once, as FILE or with --input")
    request_file = file or input_file
    if request_file is None:  # pragma: no cover - one of them is there
        raise typer.BadParameter("which request?")
    request = read_limited(request_file, MAX_REQUEST, "a request")
    try:
        data = _unsigned(request) if user_cert is None else _verified(request, user_cert)
    except UserDataUnverified as error:
        raise UserDataUnverified(f"`{request_file}`: {error}") from error
    if output is not None:
        write_private([(output, data)], force=force)
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _verified(request: bytes, user_cert: Path) -> bytes:
    data = verify(request, read_limited(user_cert, MAX_KEY_FILE, "a certificate"))
    print(f"verified: signed by the key of `{user_cert}`", file=sys.stderr)
    return data


def _unsigned(request: bytes) -> bytes:
    if carried(request) is UserDataKind.NONE:
        print("warning: no user data; nobody vouches for this request", file=sys.stderr)
        return b""
    data = unsigned(request)
    print("warning: the user data is NOT signed; nobody vouches for this request", file=sys.stderr)
    return data
