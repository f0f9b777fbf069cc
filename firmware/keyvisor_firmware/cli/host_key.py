"""`keyvisor hsm host-key`: the operator's list of host keys, their rotation and revocation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyvisor_firmware.cli.options import JsonOption, StateOption
from keyvisor_policy.terminal import verb

if TYPE_CHECKING:
    from keyvisor_guest.wire.messages import IssuedHostKeys, Message

app = verb("The host keys that owners encrypt for: list, rotate, revoke.", group=True)


@app.callback()
def host_key() -> None:
    """The host keys that owners encrypt for: list, rotate, revoke."""


@app.command("list")
def list_host_keys(state: StateOption = None, as_json: JsonOption = False) -> None:
    """Every host-key document that was issued, and the fingerprint of the root CA that owners compare."""
    _show(_ask(state, "issued_host_keys"), as_json=as_json)


@app.command()
def rotate(state: StateOption = None, as_json: JsonOption = False) -> None:
    """Make a new host key. The present one becomes the backup; what was made for the backup opens no more."""
    _show(_ask(state, "rotate_host_key"), as_json=as_json)


@app.command()
def revoke(
    serial: Annotated[
        str, typer.Argument(metavar="SERIAL", help="The document's serial number, hex, as `list` shows it.")
    ],
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a host-key document on the revocation list: owners who have the list refuse it.

    Its key goes on to open what was made for it; two rotations take it away.
    """
    from pydantic import ValidationError

    from keyvisor_guest.wire.messages import RevokeHostKey

    try:
        body = RevokeHostKey(serial=serial.lower().removeprefix("0x"))
    except ValidationError:
        raise typer.BadParameter("a serial number has 1 to 40 hex digits") from None
    _show(_ask(state, "revoke_host_key", body), as_json=as_json)


def _ask(state: Path | None, route: str, body: Message | None = None) -> IssuedHostKeys:
    from keyvisor_firmware.cli.operator_door import ask
    from keyvisor_guest.state_directory import operator_socket, state_directory
    from keyvisor_guest.wire.messages import IssuedHostKeys

    return ask(operator_socket(state_directory(state)), route, IssuedHostKeys, body)


def _show(answer: IssuedHostKeys, *, as_json: bool) -> None:
    from keyvisor_policy.terminal import print_json, print_table

    if as_json:
        print_json(answer.model_dump(mode="json"))
        return
    print_table(
        ("serial number", "use", "SHA-256 of its public key", "expires", "revoked"),
        [(one.serial, one.use, one.hash, one.expires, one.revoked or "no") for one in answer.documents],
    )
    print(f"SHA-256 of the root CA: {answer.root_fingerprint}")
