"""`keyvisor guest personalize`: make a generic guest its user's, from requests that anybody may have brought."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyvisor_guest.cli.exec import Surroundings
from keyvisor_guest.cli.options import GuestOption, JsonOption, StateOption, show
from keyvisor_guest.errors import PersonalizationFailed, SdkError
from keyvisor_guest.state_directory import state_directory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keyvisor_guest.personalization import Description, Outcome

__all__ = ["personalize"]

MAX_FILE = 0x10000  # bytes of a certificate, and of a table of contents
MAX_REQUESTS = 1024


def _file(name: str, text: str) -> object:
    return typer.Option(name, metavar="FILE", help=text, exists=True, dir_okay=False, readable=True)


def personalize(
    requests: Annotated[
        list[Path],
        typer.Argument(
            metavar="REQUEST...",
            help="Add-secret requests, in order.",
            exists=True,
            dir_okay=False,
            readable=True,
        ),
    ],
    guest: GuestOption,
    user_cert: Annotated[Path | None, _file("--user-cert", "The user's certificate or public key.")] = None,
    description: Annotated[
        Path | None, _file("--description", "How to furnish the guest afterwards.")
    ] = None,
    contents: Annotated[Path | None, _file("--contents", "Tags of the requests that must come.")] = None,
    root: Annotated[
        Path | None,
        typer.Option("--root", metavar="DIR", file_okay=False, exists=True, help="Where files are placed."),
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify whose requests these are, hand the user's to the firmware, lock the store, furnish the guest."""
    from keyvisor_guest.cli.owner_files import read_limited
    from keyvisor_guest.guest import Guest
    from keyvisor_guest.personalization import Description, Named, load
    from keyvisor_guest.wire.messages import MAX_REQUEST

    if len(requests) > MAX_REQUESTS:
        raise SdkError(f"{MAX_REQUESTS} requests at a time, not {len(requests)}")
    furnishing = load(description) if description is not None else Description()
    where = state_directory(state)
    try:
        done = Guest(guest, state=state).personalize(
            [Named(str(path), read_limited(path, MAX_REQUEST, "a request")) for path in requests],
            _user_key(user_cert, furnishing),
            contents=_tags(contents or furnishing.contents),
            description=furnishing,
            root=root,
            environment={
                **os.environ,
                **Surroundings.of(where.resolve(), guest, not_open_yet=True).variables(),
            }
            if furnishing.command
            else None,
            say=lambda text: print(text, file=sys.stderr),
        )
    except PersonalizationFailed as failed:
        _show(failed.outcomes, (), as_json=as_json)
        raise
    _show(done.outcomes, done.placed, as_json=as_json)
    if done.exit_code:
        raise SdkError(f"`{furnishing.command[0]}` ended with {done.exit_code}")


def _user_key(given: Path | None, description: Description) -> bytes:
    from keyvisor_guest.cli.owner_files import read_limited

    path = given or description.user
    if path is None:
        raise SdkError(
            "whose requests are to be taken is not said: give --user-cert, or `user` in the description"
        )
    return read_limited(path, MAX_FILE, "a certificate")


def _tags(path: Path | None) -> tuple[bytes, ...]:
    from keyvisor_guest.cli.owner_files import read_limited
    from keyvisor_guest.personalization.description import read_contents

    if path is None:
        return ()
    try:
        return read_contents(read_limited(path, MAX_FILE, "a table of contents").decode("ascii", "replace"))
    except ValueError as error:
        raise SdkError(f"`{path}`: {error}") from None


def _show(outcomes: Sequence[Outcome], placed: Sequence[Path], *, as_json: bool) -> None:
    show(
        {
            "requests": [
                {"name": one.name, "fate": one.fate.value, "reason": one.reason} for one in outcomes
            ],
            "placed": [str(path) for path in placed],
        },
        ("request", "what became of it", "why"),
        [(one.name, one.fate.value, one.reason) for one in outcomes],
        as_json=as_json,
    )
