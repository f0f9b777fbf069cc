"""Arguments that name images, and the layouts and registries behind them. One way for all verbs of `image`."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated, Final

import typer

from keyvisor_guest.cli.image_progress import Tell
from keyvisor_guest.cli.request_options import file_option
from keyvisor_guest.containers.limits import DEFAULT_LIMITS
from keyvisor_guest.containers.oci.auth_files import login_for
from keyvisor_guest.containers.oci.blobs import read_document
from keyvisor_guest.containers.oci.documents import Descriptor
from keyvisor_guest.containers.oci.layout import LATEST, OciLayout
from keyvisor_guest.containers.oci.places import RegistryPlace, parse_layout
from keyvisor_guest.containers.oci.registry import Registry
from keyvisor_guest.containers.oci.secure_image import SecureManifest, parse_secure_manifest
from keyvisor_guest.containers.oci.transfer import pull

__all__ = [
    "ArchitectureOption",
    "AuthFileOption",
    "ImageArgument",
    "InsecureHttpOption",
    "find_secure",
    "here",
    "pulled",
    "registry_at",
    "secure_manifest_of",
]

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}  # others have one name

ImageArgument = Annotated[
    str, typer.Argument(metavar="IMAGE", help="The secure image: `[oci:]DIR[:TAG]`, as skopeo spells it.")
]
ArchitectureOption = Annotated[
    str,
    typer.Option(
        "--architecture",
        metavar="NAME",
        help="Of several platforms, Linux on this one; without it this machine's.",
        show_default=False,
    ),
]
AuthFileOption = Annotated[
    Path | None,
    file_option("--authfile", text="Logins for registries, as `skopeo login --authfile` writes them."),
]
InsecureHttpOption = Annotated[
    bool,
    typer.Option(
        "--insecure-http", help="Speak to the registry without TLS: for one on this machine, and no other."
    ),
]


def here() -> str:
    """This machine's architecture, as images name it."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def registry_at(place: RegistryPlace, authfile: Path | None, *, insecure_http: bool) -> Registry:
    """A client for the registry, with its login. Raises Unbuildable, KeyRefused, OSError."""
    login = None if authfile is None else login_for(authfile, place.reference.host)
    return Registry(place.reference, login=login, insecure_http=insecure_http)


def pulled(
    place: RegistryPlace,
    layout: OciLayout,
    tell: Tell,
    *,
    architecture: str,
    authfile: Path | None,
    insecure_http: bool,
    tag: str = LATEST,
) -> Descriptor:
    """Get the registry's image into the layout. Raises Unbuildable, KeyRefused, ImageRefused, RegistryFailed, OSError."""
    registry = registry_at(place, authfile, insecure_http=insecure_http)
    return pull(registry, layout, tag, architecture or here(), lambda done, total: tell("pull", done, total))


def secure_manifest_of(layout: OciLayout, image: Descriptor) -> SecureManifest:
    """What the image claims to be. Raises ImageRefused."""
    return parse_secure_manifest(read_document(layout.blobs, image.digest, DEFAULT_LIMITS.document))


def find_secure(text: str) -> tuple[OciLayout, Descriptor, SecureManifest]:
    """The secure image that an argument names, as it claims to be. Raises ImageRefused."""
    place = parse_layout(text)
    layout = OciLayout(place.path)
    image = layout.find(place.tag)
    return layout, image, secure_manifest_of(layout, image)
