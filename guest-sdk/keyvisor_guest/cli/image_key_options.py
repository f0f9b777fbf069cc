"""The options that say with which key an image is opened, and what the key is good for: one set for all verbs.

`SOURCES` is the table of them. Each source gives a release: a volume key with the image or the least version that it is
for. Keys come from files, streams, a guest's secret store and its HSM, never through the command line.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

import typer
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from keyvisor_guest.cli.image_hsm_keys import ImageGuestOption, hsm_key, is_hsm_key, key_uri
from keyvisor_guest.cli.option_sets import with_option_set
from keyvisor_guest.cli.options import StateOption
from keyvisor_guest.cli.request_options import file_option
from keyvisor_guest.containers.chain import ExactImage
from keyvisor_guest.containers.errors import KeyRefused
from keyvisor_guest.containers.firmware_keys import DEFAULT_SECRET, release_from_secret
from keyvisor_guest.containers.jwe import unwrap_with
from keyvisor_guest.containers.keys import VOLUME_KEY_LENGTH, VolumeKey
from keyvisor_guest.containers.oci.secure_image import SecureManifest
from keyvisor_guest.containers.ocicrypt import unwrap_annotation
from keyvisor_guest.containers.pkcs11_uri import SCHEME
from keyvisor_guest.containers.release import MAX_RELEASE, Release, parse_release, released_for

__all__ = ["SOURCES", "KeyOptions", "read_key", "read_private_key", "with_key_options"]

_MAX_PEM: Final = 1 << 16


def _root(text: str | None) -> str | None:
    if text is not None and not re.fullmatch("[0-9a-f]{64}", text, re.ASCII):
        raise typer.BadParameter("an image root is 64 hex digits in lower case, as `image build` prints it")
    return text


def _key(text: str | None) -> str | None:
    if text is None:
        return None
    if is_hsm_key(text):
        key_uri(text)
    elif not Path(text).is_file():
        raise typer.BadParameter(f"there is no file `{text}`; a key in an HSM is written `{SCHEME}...`")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOptions:
    """With which key. Raises BadParameter for more than one source."""

    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="FILE|pkcs11:URI",
            callback=_key,
            help="The release that `image build --key-out` wrote, or 32 bytes with --root; or a key in the guest's HSM"
            " (RFC 7512), for which the image's key was wrapped.",
        ),
    ] = None
    key_stdin: Annotated[
        bool, typer.Option("--key-stdin", help="The same from standard input, for pipes.")
    ] = False
    private_key: Annotated[
        Path | None,
        file_option(
            "--private-key",
            text="A recipient's private key (RSA, PEM): opens the key in the manifest. With --root.",
        ),
    ] = None
    root: Annotated[
        str | None,
        typer.Option(
            "--root",
            metavar="HEX",
            callback=_root,
            help="The image root, where the key itself does not say it.",
        ),
    ] = None

    secret: Annotated[
        str | None,
        typer.Option(
            "--secret",
            metavar="NAME",
            help=f"The guest's retrievable secret that carries the release. With --guest alone: {DEFAULT_SECRET}.",
        ),
    ] = None
    guest: ImageGuestOption = None
    state: StateOption = None

    def __post_init__(self) -> None:
        if len(self._chosen()) > 1:
            raise typer.BadParameter(f"{' and '.join(self._chosen())} exclude each other")
        if self.secret is not None and self.guest is None:
            raise typer.BadParameter("of which guest? give --guest NAME", param_hint="--guest")

    @property
    def given(self) -> bool:
        """Whether any key is named. A guest alone names none: programs in a guest have it in their environment."""
        return bool(self._chosen())

    def release(self, manifest: SecureManifest) -> Release:
        """The key for this image, and what it is good for. Raises BadParameter, KeyRefused, OSError, and as the doors do."""
        for name in self._chosen():
            return SOURCES[name](self, manifest)
        if self.guest is not None:
            return _from_secret(self, manifest)
        raise typer.BadParameter(f"with which key? give {', '.join(SOURCES)} or --guest")

    def exact(self) -> ExactImage | None:
        """What `--root` says."""
        return None if self.root is None else ExactImage(bytes.fromhex(self.root))

    def _chosen(self) -> list[str]:
        return [name for name in SOURCES if getattr(self, name.removeprefix("--").replace("-", "_"))]


def read_key(data: bytes, exact: ExactImage | None) -> Release:
    """A release from its bytes; from a bare volume key where `exact` says what it is for. Raises KeyRefused."""
    if len(data) != VOLUME_KEY_LENGTH:
        return released_for(parse_release(data), exact)
    if exact is None:
        raise KeyRefused(
            "a bare volume key opens any image of its owner, older ones too: say which with `--root`"
        )
    return Release(VolumeKey(data), exact)


def _from_key(options: KeyOptions, manifest: SecureManifest) -> Release:
    assert options.key is not None  # noqa: S101 -- chosen
    if is_hsm_key(options.key):
        from keyvisor_guest.containers.hsm_wrapping import release_from_hsm

        with hsm_key(key_uri(options.key), options.guest, options.state) as key:
            return release_from_hsm(key, manifest.wrapped_keys, options.exact())
    with Path(options.key).open("rb") as file:
        return read_key(file.read(MAX_RELEASE + 1), options.exact())


def _from_stdin(options: KeyOptions, _: SecureManifest) -> Release:
    return read_key(sys.stdin.buffer.read(MAX_RELEASE + 1), options.exact())


def _from_private_key(options: KeyOptions, manifest: SecureManifest) -> Release:
    """Anybody can wrap for a public key: what such a release says that it is good for counts for nothing."""
    assert options.private_key is not None  # noqa: S101 -- chosen
    exact = options.exact()
    if exact is None:
        raise KeyRefused(
            "whoever has the public key could have wrapped this key: say with `--root` which image it has to be"
        )
    private = read_private_key(options.private_key)
    wrapped = manifest.wrapped_keys.get("jwe")
    if wrapped is None:
        raise KeyRefused("this image's key is wrapped for nobody: name the file that carries it with `--key`")
    return replace(parse_release(unwrap_annotation(wrapped, unwrap_with(private))), demand=exact)


def _from_secret(options: KeyOptions, _: SecureManifest) -> Release:
    from keyvisor_guest.guest import Guest

    secrets = Guest(options.guest, state=options.state).secrets
    return released_for(release_from_secret(secrets, options.secret or DEFAULT_SECRET), options.exact())


def read_private_key(path: Path) -> RSAPrivateKey:
    """An RSA key out of a PEM file. Raises KeyRefused, OSError."""
    with path.open("rb") as file:
        data = file.read(_MAX_PEM)
    try:
        private = load_pem_private_key(data, None)
    except TypeError:
        raise KeyRefused(
            f"`{path}` is locked with a passphrase: `openssl pkey -in FILE -out FILE` unlocks a copy of it"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise KeyRefused(f"`{path}` holds no private key in PEM") from None
    if not isinstance(private, RSAPrivateKey):
        raise KeyRefused(f"`{path}` is no RSA key, and keys are wrapped for these only")
    return private


SOURCES: Final[Mapping[str, Callable[[KeyOptions, SecureManifest], Release]]] = MappingProxyType(
    {
        "--key": _from_key,
        "--key-stdin": _from_stdin,
        "--private-key": _from_private_key,
        "--secret": _from_secret,
    }
)

with_key_options = with_option_set(KeyOptions)
