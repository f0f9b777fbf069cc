"""How owners' verbs are told for which hosts they make something, and who vouches for these hosts' keys.

The options are those of `pvsecret`, `pvimg` and `pvattest` (formats, G). Nothing is fetched from anywhere:
`--offline` is taken, and always so.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_guest.cli.owner_files import read_limited
from keyvisor_guest.owner import Owner
from keyvisor_guest.wire.errors import HostKeyUnusable
from keyvisor_guest.wire.host_key_chain import Trust, verified_host_key
from keyvisor_guest.wire.host_key_documents import (
    MAX_DOCUMENT,
    MAX_REVOCATION_LIST,
    read_certificate,
    read_certificates,
    read_revocation_list,
)

__all__ = [
    "CertsOption",
    "CrlsOption",
    "HostKeysOption",
    "NoVerifyOption",
    "OfflineOption",
    "RootCaOption",
    "verified_owner",
]


def _input(*names: str, text: str) -> object:
    return typer.Option(*names, metavar="FILE", exists=True, dir_okay=False, readable=True, help=text)


HostKeysOption = Annotated[
    list[Path],
    _input("-k", "--host-key-document", text="A certificate of a host that shall read it; can be repeated."),
]
CertsOption = Annotated[
    list[Path] | None,
    _input(
        "-C",
        "--cert",
        text="A certificate between host-key document and root CA, as the signing key's; can be repeated.",
    ),
]
CrlsOption = Annotated[
    list[Path] | None,
    _input("--crl", text="A revocation list of who signed the host-key document; can be repeated."),
]
RootCaOption = Annotated[Path | None, _input("--root-ca", text="The root CA's certificate, which you trust.")]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Fetch nothing. It is always so; for scripts that say it.")
]
NoVerifyOption = Annotated[
    bool, typer.Option("--no-verify", help="Take the host-key documents without checking who made them.")
]

_T = TypeVar("_T")


def verified_owner(
    documents: Sequence[Path],
    certs: Sequence[Path] | None,
    crls: Sequence[Path] | None,
    root_ca: Path | None,
    no_verify: bool,
) -> Owner:
    """An owner for the hosts of all `documents`, each vouched for; with `no_verify` a loud one for whoever made them.

    Raises HostKeyUnusable, HostKeyUntrusted, OSError; BadParameter for options that do not go together.
    """
    if no_verify:
        if certs or crls or root_ca is not None:
            raise typer.BadParameter("--no-verify excludes --cert, --crl and --root-ca")
        return _unverified(documents)
    if not certs or root_ca is None:
        raise typer.BadParameter(
            "who vouches for the host-key documents? give --cert, --crl and --root-ca, or --no-verify and "
            "compare the hash that it prints with the operator's"
        )
    trust = Trust(
        root=_each(root_ca, "a root CA", MAX_DOCUMENT, read_certificate),
        certificates=tuple(
            one for path in certs for one in _each(path, "certificates", MAX_DOCUMENT, read_certificates)
        ),
        lists=tuple(
            _each(path, "a revocation list", MAX_REVOCATION_LIST, read_revocation_list) for path in crls or ()
        ),
    )
    now = datetime.datetime.now(datetime.UTC)
    return Owner([_verified(path, trust, now) for path in documents])


def _verified(path: Path, trust: Trust, now: datetime.datetime) -> ec.EllipticCurvePublicKey:
    return _each(path, "a host-key document", MAX_DOCUMENT, lambda data: verified_host_key(data, trust, now))


def _each(path: Path, what: str, limit: int, read: Callable[[bytes], _T]) -> _T:
    """What `read` makes of the file; its refusals name the file."""
    try:
        return read(read_limited(path, limit, what))
    except HostKeyUnusable as error:
        raise type(error)(f"`{path}`: {error}") from error


def _unverified(documents: Sequence[Path]) -> Owner:
    owner = Owner(documents)
    print(
        "warning: host-key documents are NOT verified: not their signature, not their validity, not their "
        "revocation; whoever made them can read what is made for them",
        file=sys.stderr,
    )
    for path, key_hash in zip(documents, owner.host_key_hashes, strict=True):
        print(
            f"warning: `{path}` has the host key {key_hash.hex()}: compare it with the operator's",
            file=sys.stderr,
        )
    return owner
