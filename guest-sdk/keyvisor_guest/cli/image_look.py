"""`keyvisor image inspect` and `verify`: what an image says of itself, and whether all of it is its owner's."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from keyvisor_guest.cli.image_key_options import KeyOptions, with_key_options
from keyvisor_guest.cli.image_opening import opened
from keyvisor_guest.cli.image_places import ImageArgument, find_secure
from keyvisor_guest.cli.image_progress import bars
from keyvisor_guest.cli.options import JsonOption
from keyvisor_guest.cli.owner_files import print_fields
from keyvisor_guest.cli.sizes import size_text
from keyvisor_guest.containers.describing import ImageClaims, claims_of, claims_of_maps
from keyvisor_guest.containers.ext4.reading import VolumeReader
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_policy.terminal import print_json, print_table, printable

__all__ = ["inspect", "verify"]


@with_key_options
def inspect(keys: KeyOptions, image: ImageArgument, as_json: JsonOption = False) -> None:
    """Show what a secure image says of itself. With a key: only if it is as its owner put it together."""
    _, descriptor, manifest = found = find_secure(image)
    if keys.given:
        with opened(keys, image) as reader:
            claims = claims_of_maps(reader.maps, reader.manifest, reader.config)
    else:
        claims = claims_of(found[0].blobs, manifest)
    if as_json:
        print_json({"digest": descriptor.digest, "verified": keys.given, **asdict(claims)})
    else:
        _show(descriptor.digest, claims, verified=keys.given)


@with_key_options
def verify(keys: KeyOptions, image: ImageArgument, as_json: JsonOption = False) -> None:
    """Hold every block of every layer against what the owner built, and go through the whole tree of files."""
    with opened(keys, image) as reader, bars(quiet=as_json) as tell:
        reader.verify(lambda done, total: tell("verify", done, total))
        names = sum(1 for _ in VolumeReader(reader.read_at).walk())
        fields = {
            "root": reader.root.hex(),
            "version": reader.maps[-1].plan.version,
            "layers": len(reader.maps),
            "blocks": reader.stored_blocks,
            "names": names,
        }
    if as_json:
        print_json({**fields, "verified": True})
    else:
        print(
            f"verified: {fields['layers']} layers, {size_text(reader.stored_blocks * BLOCK)},"
            f" {names} names, version {fields['version']}, root {fields['root']}"
        )


def _show(digest: str, claims: ImageClaims, *, verified: bool) -> None:
    print_fields(
        {
            "digest": digest,
            "id": claims.id,
            "version": str(claims.version),
            "root": claims.root,
            "volume": f"{size_text(claims.volume)}, {size_text(claims.stored)} stored",
            "platform": printable(claims.architecture),
            "recipients": printable(", ".join(claims.wrapped)) or "none",
            **{name.lower(): printable(_cell(value)) for name, value in claims.process.items()},
            "verified": "chain, config and root" if verified else "no: no key was named",
        }
    )
    print()
    print_table(
        ("layer", "cipher", "blocks", "zero", "runs", "source"),
        [
            (str(one.layer), one.cipher, str(one.blocks), str(one.zero), str(one.runs), one.source)
            for one in claims.layers
        ],
    )


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(one) for one in value)
    if isinstance(value, dict):
        return " ".join(f"{name}={one}" for name, one in value.items())
    return str(value)
