"""For whom an image's key is wrapped: `SCHEME:REST` of the option `--recipient`, and the annotations that come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from keyvisor_guest.containers.errors import KeyRefused
from keyvisor_guest.containers.jwe import MINIMUM_BITS
from keyvisor_guest.containers.ocicrypt import wrap_annotation

__all__ = ["RecipientsOption", "jwe_recipients", "wrapped_for"]

_MAX_PEM: Final = 1 << 16
_JWE: Final = "jwe:"

RecipientsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--recipient",
        metavar="jwe:FILE",
        help="Wrap the key for this public key or certificate (RSA, PEM) in the manifest; can be repeated.",
    ),
]


def jwe_recipients(recipients: Sequence[str]) -> list[RSAPublicKey]:
    """The public keys of `jwe:FILE`. Raises BadParameter for another scheme, KeyRefused, OSError."""
    keys = []
    for one in recipients:
        if not one.startswith(_JWE) or one == _JWE:
            raise typer.BadParameter(f"`{one}` is no recipient: write `jwe:FILE`", param_hint="--recipient")
        keys.append(_public_key(Path(one.removeprefix(_JWE))))
    return keys


def wrapped_for(
    keys: Sequence[RSAPublicKey], release: bytes, random_bytes: Callable[[int], bytes]
) -> Mapping[str, str]:
    """The annotations that carry the release for all of them, by scheme."""
    return {"jwe": wrap_annotation(release, keys, random_bytes)} if keys else {}


def _public_key(path: Path) -> RSAPublicKey:
    with path.open("rb") as file:
        data = file.read(_MAX_PEM)
    try:
        if b"-----BEGIN CERTIFICATE-----" in data:
            key: object = load_pem_x509_certificate(data).public_key()
        else:
            key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise KeyRefused(f"`{path}` holds no public key and no certificate in PEM") from None
    if not isinstance(key, RSAPublicKey):
        raise KeyRefused(f"`{path}` is no RSA key, and keys are wrapped for these only")
    if key.key_size < MINIMUM_BITS:
        raise KeyRefused(f"`{path}` has {key.key_size} bits, which is too short: use {MINIMUM_BITS} or more")
    return key
