"""`keyvisor image push` and `pull`: images between layouts and registries, every blob held against its digest."""

from __future__ import annotations

from typing import Annotated

import typer

from keyvisor_guest.cli.image_places import (
    ArchitectureOption,
    AuthFileOption,
    ImageArgument,
    InsecureHttpOption,
    pulled,
    registry_at,
)
from keyvisor_guest.cli.image_progress import bars
from keyvisor_guest.cli.options import JsonOption
from keyvisor_guest.cli.owner_files import print_fields
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.places import parse_layout, parse_registry
from keyvisor_guest.containers.oci.transfer import push as send
from keyvisor_policy.terminal import print_json

__all__ = ["pull", "push"]

RegistryArgument = Annotated[
    str,
    typer.Argument(metavar="REFERENCE", help="The image in a registry: `docker://HOST/NAME[:TAG][@DIGEST]`."),
]


def push(
    image: ImageArgument,
    reference: RegistryArgument,
    authfile: AuthFileOption = None,
    insecure_http: InsecureHttpOption = False,
    as_json: JsonOption = False,
) -> None:
    """Store an image in a registry. What the registry gets is ciphertext, maps and the config: no key is needed."""
    source, target = parse_layout(image), parse_registry(reference)
    layout = OciLayout(source.path)
    found = layout.find(source.tag)
    registry = registry_at(target, authfile, insecure_http=insecure_http)
    with bars(quiet=as_json) as tell:
        send(layout, found, registry, lambda done, total: tell("push", done, total))
    _show(str(target), found.digest, as_json=as_json)


def pull(
    reference: RegistryArgument,
    image: ImageArgument,
    architecture: ArchitectureOption = "",
    authfile: AuthFileOption = None,
    insecure_http: InsecureHttpOption = False,
    as_json: JsonOption = False,
) -> None:
    """Get an image from a registry into a layout. Digests are checked; whose image it is, only a key tells."""
    source, target = parse_registry(reference), parse_layout(image)
    tag = target.tag or source.reference.tag
    with bars(quiet=as_json) as tell:
        found = pulled(
            source,
            OciLayout(target.path),
            tell,
            architecture=architecture,
            authfile=authfile,
            insecure_http=insecure_http,
            tag=tag,
        )
    _show(f"oci:{target.path}:{tag}", found.digest, as_json=as_json)


def _show(image: str, digest: str, *, as_json: bool) -> None:
    fields = {"image": image, "digest": digest}
    if as_json:
        print_json(fields)
    else:
        print_fields(fields)
