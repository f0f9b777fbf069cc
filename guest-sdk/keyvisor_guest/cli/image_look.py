"""`keyvisor image inspect`: what everybody can read of a secure image; with a key, whether it is its owner's."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from keyvisor_guest.cli.image_key_options import KeyOptions, with_key_options
from keyvisor_guest.cli.image_places import ImageArgument, find_secure
from keyvisor_guest.cli.options import JsonOption
from keyvisor_guest.cli.owner_files import print_fields
from keyvisor_guest.cli.sizes import size_text
from keyvisor_guest.containers.describing import ImageClaims, claims_of, claims_of_maps
from keyvisor_guest.containers.reader import ImageReader
from keyvisor_policy.terminal import print_json, print_table, printable

__all__ = ["inspect"]


@with_key_options
def inspect(keys: KeyOptions, image: ImageArgument, as_json: JsonOption = False) -> None:
    """Show what a secure image says of itself. With a key: only if it is as its owner put it together."""
    layout, descriptor, manifest = find_secure(image)
    if keys.given:
        release = keys.release(manifest)
        with ImageReader.open(layout.blobs, descriptor.digest, release.key, release.demand) as reader:
            claims = claims_of_maps(reader.maps, manifest, reader.config)
    else:
        claims = claims_of(layout.blobs, manifest)
    if as_json:
        print_json({"digest": descriptor.digest, "verified": keys.given, **asdict(claims)})
    else:
        _show(descriptor.digest, claims, verified=keys.given)


def _show(digest: str, claims: ImageClaims, *, verified: bool) -> None:
    print_fields(
        {
            "digest": digest,
            "id": claims.id,
            "version": str(claims.version),
            "root": claims.root,
            "volume": f"{size_text(claims.volume)}, {size_text(claims.stored)} stored",
            "platform": printable(claims.architecture),
            "recipients": ", ".join(claims.wrapped) or "none",
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
