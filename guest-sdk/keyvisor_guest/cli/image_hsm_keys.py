"""A key in a guest's HSM, as a verb of `image` names it: `pkcs11:` and which guest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyvisor_guest.containers.errors import KeyRefused
from keyvisor_guest.containers.pkcs11_uri import SCHEME, Pkcs11Uri, parse_uri
from keyvisor_guest.names import GUEST_VARIABLE

if TYPE_CHECKING:
    from keyvisor_guest.containers.hsm_keys import AesInHsm, RsaInHsm

__all__ = ["ImageGuestOption", "hsm_key", "is_hsm_key", "key_uri"]

ImageGuestOption = Annotated[
    str | None,
    typer.Option(
        "--guest",
        metavar="NAME",
        envvar=GUEST_VARIABLE,
        help="The guest whose secret store or HSM has the key.",
        show_default=False,
    ),
]


def is_hsm_key(text: str) -> bool:
    """Whether this is meant to be a PKCS#11 URI."""
    return text.startswith(SCHEME)


def key_uri(text: str) -> Pkcs11Uri:
    """The key that an option names. Raises BadParameter."""
    try:
        return parse_uri(text)
    except KeyRefused as refused:
        raise typer.BadParameter(str(refused)) from None


@contextmanager
def hsm_key(uri: Pkcs11Uri, guest: str | None, state: Path | None) -> Iterator[AesInHsm | RsaInHsm]:
    """The key, through the guest's PKCS#11 door. Raises BadParameter, KeyRefused, and what the doors raise."""
    if guest is None:
        raise typer.BadParameter("in which guest's HSM? give --guest NAME", param_hint="--guest")
    from keyvisor_guest.containers.hsm_keys import open_key
    from keyvisor_guest.guest import Guest

    with open_key(Guest(guest, state=state).pkcs11(), uri) as key:
        yield key
