"""`keyvisor image ocicrypt`: ordinary images with whole layers encrypted, for skopeo, podman and containerd (ocicrypt).

Beside the secure images and not as strong: nothing in the format binds layers to each other or to their config.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from keyvisor_guest.cli.image_hsm_keys import ImageGuestOption, hsm_key, key_uri
from keyvisor_guest.cli.image_key_options import read_private_key
from keyvisor_guest.cli.image_places import ArchitectureOption, here
from keyvisor_guest.cli.image_recipients import RecipientsOption, jwe_recipients
from keyvisor_guest.cli.options import JsonOption, StateOption
from keyvisor_guest.cli.owner_files import print_fields
from keyvisor_guest.cli.request_options import file_option
from keyvisor_guest.containers.errors import ImageRefused, KeyRefused
from keyvisor_guest.containers.jwe import RsaUnwrap, unwrap_with
from keyvisor_guest.containers.oci.documents import Descriptor
from keyvisor_guest.containers.oci.layout import LATEST, OciLayout
from keyvisor_guest.containers.oci.places import LayoutPlace, parse_layout
from keyvisor_guest.containers.oci.transfer import choose_manifest
from keyvisor_guest.containers.ocicrypt import decrypt_image, encrypt_image
from keyvisor_policy.terminal import print_json, verb

__all__ = ["app"]

app = verb("Ordinary images whose layers are encrypted as a whole: what skopeo reads and writes.", group=True)

SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help="The image: `[oci:]DIR[:TAG]`.")]
OutputOption = Annotated[
    str, typer.Option("-o", "--output", metavar="IMAGE", help="The new image: `[oci:]DIR[:TAG]`.")
]


@app.command()
def encrypt(
    source: SourceArgument,
    output: OutputOption,
    recipients: RecipientsOption = None,
    architecture: ArchitectureOption = "",
    as_json: JsonOption = False,
) -> None:
    """Encrypt all layers of an ordinary image for the recipients."""
    keys = jwe_recipients(recipients or ())
    if not keys:
        raise typer.BadParameter("for whom? give `--recipient jwe:FILE`", param_hint="--recipient")
    layout, image, into, place = _both(source, output, architecture)
    made = encrypt_image(layout.blobs, image, keys, os.urandom, into.blobs)
    _publish(into, place, made, as_json=as_json)


@app.command()
def decrypt(
    source: SourceArgument,
    output: OutputOption,
    private_key: Annotated[
        Path | None, file_option("--private-key", text="A recipient's private key: RSA, PEM.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="pkcs11:URI", help="The same in the guest's HSM, where it stays."),
    ] = None,
    guest: ImageGuestOption = None,
    state: StateOption = None,
    architecture: ArchitectureOption = "",
    as_json: JsonOption = False,
) -> None:
    """Decrypt an image's layers. Each is as it was encrypted; that they belong together, nothing in the format says."""
    with _opening(private_key, key, guest, state) as open_key:
        layout, image, into, place = _both(source, output, architecture)
        made = decrypt_image(layout.blobs, image, open_key, into.blobs)
    _publish(into, place, made, as_json=as_json)


@contextmanager
def _opening(
    private_key: Path | None, key: str | None, guest: str | None, state: Path | None
) -> Iterator[RsaUnwrap]:
    """What opens the layers' keys: a file's key, or the HSM's."""
    if private_key is not None and key is None:
        yield unwrap_with(read_private_key(private_key))
    elif key is not None and private_key is None:
        from keyvisor_guest.containers.hsm_keys import RsaInHsm

        with hsm_key(key_uri(key), guest, state) as found:
            if not isinstance(found, RsaInHsm):
                raise KeyRefused("layers are encrypted for RSA keys: name one of these")
            yield found.unwrap_jwe
    else:
        raise typer.BadParameter("with which key? give --private-key FILE or --key pkcs11:URI, and not both")


def _both(
    source: str, output: str, architecture: str
) -> tuple[OciLayout, Descriptor, OciLayout, LayoutPlace]:
    """The source's layout and image, and where the new one goes: another layout, so that none has both in it."""
    place, target = parse_layout(source), parse_layout(output)
    layout, into = OciLayout(place.path), OciLayout(target.path)
    image, _ = choose_manifest(layout.blobs, layout.find(place.tag), architecture or here())
    if place.path.resolve() == target.path.resolve():
        raise ImageRefused(
            f"`{target.path}` would hold the layers in clear beside the encrypted ones: name another directory"
        )
    into.create()
    return layout, image, into, target


def _publish(into: OciLayout, place: LayoutPlace, image: Descriptor, *, as_json: bool) -> None:
    tag = place.tag or LATEST
    into.tag(image, tag)
    fields = {"image": f"oci:{into.path}:{tag}", "digest": image.digest}
    if as_json:
        print_json(fields)
    else:
        print_fields(fields)
