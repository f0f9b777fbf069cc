"""`keyvisor image build`: an ordinary image in, a secure one out, with the release of its key."""

from __future__ import annotations

import enum
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from keyvisor_guest.cli.image_places import (
    ArchitectureOption,
    AuthFileOption,
    InsecureHttpOption,
    here,
)
from keyvisor_guest.cli.image_progress import bars
from keyvisor_guest.cli.image_recipients import RecipientsOption, jwe_recipients, wrapped_for
from keyvisor_guest.cli.image_sources import SourceOptions, opened
from keyvisor_guest.cli.options import JsonOption
from keyvisor_guest.cli.owner_files import print_fields, read_limited
from keyvisor_guest.cli.request_options import file_option, output_option
from keyvisor_guest.cli.sizes import parse_size
from keyvisor_guest.containers.building import BuildOptions, Step, build_image, image_id_of_name
from keyvisor_guest.containers.chain import ExactImage, MinimumVersion
from keyvisor_guest.containers.keys import (
    IMAGE_ID_LENGTH,
    VOLUME_KEY_LENGTH,
    ImageId,
    VolumeKey,
    image_id,
)
from keyvisor_guest.containers.layer_map import Cipher
from keyvisor_guest.containers.oci.layout import LATEST, OciLayout
from keyvisor_guest.containers.oci.places import LayoutPlace, parse_layout, parse_place
from keyvisor_guest.containers.portion import Portion
from keyvisor_guest.containers.publishing import check_new, publish
from keyvisor_guest.containers.release import MAX_RELEASE, Release, parse_release, release_bytes
from keyvisor_guest.containers.writer import BuiltImage
from keyvisor_policy.terminal import print_json, printable

__all__ = ["build"]


class CipherName(enum.StrEnum):
    """How the option spells the ciphers."""

    GCM = "gcm"
    XTS = "xts"


class ReleaseKind(enum.StrEnum):
    """What the key is released for."""

    EXACT = "exact"
    MINIMUM = "min-version"


_CIPHERS: Final = {CipherName.GCM: Cipher.GCM, CipherName.XTS: Cipher.XTS}


def build(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="The ordinary image: `oci:DIR[:TAG]`, `docker-archive:FILE[:TAG]` or `docker://HOST/NAME[:TAG]`.",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="IMAGE", help="The secure image: `[oci:]DIR[:TAG]`, a layout."
        ),
    ],
    key_out: Annotated[
        Path | None,
        output_option("--key-out", text="Write the release there: the key, and what it is good for."),
    ] = None,
    key: Annotated[
        Path | None,
        file_option("--key", text="Build under this key: 32 bytes, or a release. Without it a new one."),
    ] = None,
    recipients: RecipientsOption = None,
    release: Annotated[
        ReleaseKind,
        typer.Option(
            "--release", help="The key is good for this image only, or for this version and later ones."
        ),
    ] = ReleaseKind.EXACT,
    version: Annotated[
        int, typer.Option("--version", metavar="N", min=0, help="The owner's number for this image.")
    ] = 1,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="TEXT", help="What the image is called over all versions; its id is made of it."
        ),
    ] = None,
    layers: Annotated[
        str,
        typer.Option(
            "--encrypt-layers", metavar="RANGES", help="Counted from the bottom, as in `1-` or `0,2-4`."
        ),
    ] = "0-",
    cipher: Annotated[
        CipherName, typer.Option("--cipher", help="gcm; xts is what dm-crypt reads.")
    ] = CipherName.GCM,
    reproducible: Annotated[
        bool,
        typer.Option("--reproducible", help="The same source and key give the same bytes; with --name."),
    ] = False,
    size: Annotated[
        int | None,
        typer.Option(
            "--size",
            parser=parse_size,
            metavar="SIZE",
            help="At least this large a volume.",
            show_default=False,
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            "--work",
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Where the volume is in clear meanwhile; without it where temporary files go.",
        ),
    ] = None,
    architecture: ArchitectureOption = "",
    authfile: AuthFileOption = None,
    insecure_http: InsecureHttpOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build a secure image: its layers encrypted block by block, bound to each other and to its config."""
    if key_out is None and key is None and not recipients:
        raise typer.BadParameter(
            "nobody could open the image: give --key-out FILE for the new key, or --recipient",
            param_hint="--key-out",
        )
    if name is None and (reproducible or release is ReleaseKind.MINIMUM):
        raise typer.BadParameter(
            "an image that is built again needs a name of its own: give --name TEXT", param_hint="--name"
        )
    place, target = parse_place(source), parse_layout(output)
    if key_out is not None:
        _check_key_out(key_out, target)
    public = jwe_recipients(recipients or ())
    volume_key = VolumeKey(os.urandom(VOLUME_KEY_LENGTH)) if key is None else _read_key(key)
    image = image_id(os.urandom(IMAGE_ID_LENGTH)) if name is None else image_id_of_name(name)
    random_bytes = None if reproducible else os.urandom
    options = BuildOptions(version, random_bytes, Portion.parse(layers), _CIPHERS[cipher], size or 0)
    layout, tag = OciLayout(target.path), target.tag or LATEST

    def released(root: bytes) -> bytes:
        demand = ExactImage(root) if release is ReleaseKind.EXACT else MinimumVersion(version, image)
        return release_bytes(Release(volume_key, demand))

    def wrap(root: bytes) -> Mapping[str, str]:
        return wrapped_for(public, released(root), os.urandom)

    source_options = SourceOptions(architecture or here(), authfile, insecure_http)
    with (
        _work_directory(work) as directory,
        bars(quiet=as_json) as tell,
        opened(place, source_options, directory, tell) as found,
    ):
        states = directory / "states"
        states.mkdir()
        built = build_image(
            found,
            layout,
            states,
            volume_key,
            image,
            options,
            wrap,
            lambda step, layer, done, total: tell(_said(step, layer), done, total),
        )
    publish(layout, built.manifest, tag, key_out, released(built.root))
    _show(built, image, version, f"oci:{target.path}:{tag}", as_json=as_json)


def _check_key_out(key_out: Path, target: LayoutPlace) -> None:
    """Before the long part. Raises BadParameter, OSError."""
    check_new(key_out)
    if key_out.resolve().is_relative_to(target.path.resolve()):
        raise typer.BadParameter(
            "the layout goes to others, with all that is in it: name another directory",
            param_hint="--key-out",
        )


@contextmanager
def _work_directory(where: Path | None) -> Iterator[Path]:
    """A directory for its owner only. Who is asked to end takes it away first: the volume in it is in clear."""

    def end(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        with tempfile.TemporaryDirectory(prefix="keyvisor-build-", dir=where) as directory:
            yield Path(directory)
    finally:
        signal.signal(signal.SIGTERM, before)


def _said(step: Step, layer: int) -> str:
    return str(step) if step is Step.MEASURE else f"layer {layer}: {step}"


def _read_key(path: Path) -> VolumeKey:
    """A bare volume key, or that of a release. Raises KeyRefused, OSError."""
    data = read_limited(path, MAX_RELEASE, "a volume key")
    return VolumeKey(data) if len(data) == VOLUME_KEY_LENGTH else parse_release(data).key


def _show(built: BuiltImage, image: ImageId, version: int, where: str, *, as_json: bool) -> None:
    wrapped = sorted(built.secure.wrapped_keys)
    fields: dict[str, object] = {
        "image": where,
        "digest": built.manifest.digest,
        "root": built.root.hex(),
        "id": image.hex(),
        "version": version,
        "layers": len(built.secure.layers),
    }
    if as_json:
        print_json({**fields, "recipients": wrapped})
    else:
        shown = {name: printable(str(value)) for name, value in fields.items()}
        print_fields({**shown, "recipients": ", ".join(wrapped) or "none"})
