"""`keyvisor image run`: a secure image pulled, verified and run beside a guest's PKCS#11 door."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from keyvisor_guest.cli.exec import open_door
from keyvisor_guest.cli.image_key_options import KeyOptions, with_key_options
from keyvisor_guest.cli.image_places import (
    ArchitectureOption,
    AuthFileOption,
    InsecureHttpOption,
    pulled,
    secure_manifest_of,
)
from keyvisor_guest.cli.image_progress import Tell, bars
from keyvisor_guest.cli.image_refusals import Refusals
from keyvisor_guest.containers.oci.documents import Descriptor
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.places import LayoutPlace, RegistryPlace, parse_layout, parse_place
from keyvisor_guest.containers.reader import ImageReader
from keyvisor_guest.containers.running.container import RunOptions, run_container
from keyvisor_guest.containers.running.roots import Root, RootKind
from keyvisor_guest.containers.running.supervising import Signals
from keyvisor_guest.state_directory import state_directory
from keyvisor_policy.terminal import printable

__all__ = ["ReferenceArgument", "found_image", "opened_image", "run"]

ReferenceArgument = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE",
        help="The secure image: `[oci:]DIR[:TAG]` or `docker://HOST/NAME[:TAG][@DIGEST]`, which is pulled first.",
    ),
]


@with_key_options
def run(
    keys: KeyOptions,
    image: ReferenceArgument,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARGS",
            help="Behind `--`: instead of the image's `Cmd`, behind its `Entrypoint`.",
            show_default=False,
        ),
    ] = None,
    files: Annotated[
        RootKind,
        typer.Option(
            "--files",
            help="fuse: blocks are verified as they are read; extract: all files first, in memory; auto: what works.",
        ),
    ] = RootKind.AUTO,
    network: Annotated[
        bool, typer.Option("--share-net", help="Let the container use this machine's network.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")] = False,
    architecture: ArchitectureOption = "",
    authfile: AuthFileOption = None,
    insecure_http: InsecureHttpOption = False,
) -> None:
    """Run a secure image in a sandbox; the exit code is its program's.

    Key, order of layers, config and version are verified before anything of the image starts. The key comes from the
    guest's secret store, or as the key options say. In the container the guest's PKCS#11 door is at
    /run/keyvisor/pkcs11.sock, and P11_KIT_SERVER_ADDRESS names it. What the container writes is gone with it.
    """
    with Signals() as signals, bars(quiet=quiet) as tell:
        door = None if keys.guest is None else open_door(state_directory(keys.state), keys.guest)
        with found_image(image, architecture, authfile, insecure_http, tell) as (layout, found):
            reader = opened_image(layout, found, keys)
    with Signals() as signals, reader:
        code = run_container(
            reader,
            arguments or (),
            RunOptions(files, door, network),
            signals,
            on_root=lambda taken: None if quiet else _say_root(taken),
            on_refused=Refusals(),
        )
    raise typer.Exit(code)


@contextmanager
def found_image(
    text: str, architecture: str, authfile: Path | None, insecure_http: bool, tell: Tell
) -> Iterator[tuple[OciLayout, Descriptor]]:
    """The image in its layout; one of a registry in a layout that is gone afterwards: who has opened it may go on reading."""
    place = parse_place(text)
    if isinstance(place, RegistryPlace):
        with tempfile.TemporaryDirectory(prefix="keyvisor-pull-") as name:
            layout = OciLayout(Path(name))
            yield (
                layout,
                pulled(
                    place,
                    layout,
                    tell,
                    architecture=architecture,
                    authfile=authfile,
                    insecure_http=insecure_http,
                ),
            )
        return
    if not isinstance(place, LayoutPlace):
        place = parse_layout(text)  # which says what is wanted instead
    layout = OciLayout(place.path)
    yield layout, layout.find(place.tag)


def opened_image(layout: OciLayout, found: Descriptor, keys: KeyOptions) -> ImageReader:
    """The image open and verified, if the key was released for it. Raises ImageRefused, KeyRefused, and as the doors do."""
    release = keys.release(secure_manifest_of(layout, found))
    return ImageReader.open(layout.blobs, found.digest, release.key, release.demand)


def _say_root(root: Root) -> None:
    why = "" if root.reason is None else f", since {root.reason}"
    told = (
        "blocks are verified as they are read"
        if root.kind is RootKind.FUSE
        else "all files were verified and laid out in memory"
    )
    print(printable(f"{root.kind}: {told}{why}"), file=sys.stderr)
