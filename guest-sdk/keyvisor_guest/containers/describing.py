"""What a secure image says of itself to everybody: its maps and its config, read without a key.

It is what the image claims: only `ImageReader.open` tells whether its owner put it together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.layer_map import Cipher, LayerMap, parse_map
from keyvisor_guest.containers.limits import BLOCK, DEFAULT_LIMITS, Limits
from keyvisor_guest.containers.oci.blobs import BlobSource, read_document
from keyvisor_guest.containers.oci.documents import load_object
from keyvisor_guest.containers.oci.secure_image import SecureManifest
from keyvisor_guest.containers.runs import blocks_in

__all__ = ["ImageClaims", "LayerClaims", "claims_of", "claims_of_maps", "read_maps"]

_SHOWN: Final = ("Entrypoint", "Cmd", "Env", "User", "WorkingDir", "Labels")


@dataclass(frozen=True, slots=True)
class LayerClaims:
    """One layer. Lengths in blocks of 4096 bytes; `source` names the layer that it was built from."""

    layer: int
    cipher: str
    encrypted: bool
    blocks: int
    zero: int
    runs: int
    map: str
    data: str
    source: str


@dataclass(frozen=True, slots=True)
class ImageClaims:
    """The whole image. `id` and `root` in hex, `volume` in bytes, `wrapped` the schemes of its wrapped keys."""

    id: str
    version: int
    root: str
    volume: int
    stored: int
    wrapped: tuple[str, ...]
    architecture: str
    process: Mapping[str, Any]  # what of the config says how it runs, as the config has it
    layers: tuple[LayerClaims, ...]


def read_maps(
    blobs: BlobSource, manifest: SecureManifest, limits: Limits = DEFAULT_LIMITS
) -> tuple[LayerMap, ...]:
    """The layers' maps, well formed and not verified. Raises ImageRefused."""
    return tuple(
        parse_map(read_document(blobs, one.map.digest, limits.map_json, one.map.size), limits).map
        for one in manifest.layers
    )


def claims_of(blobs: BlobSource, manifest: SecureManifest, limits: Limits = DEFAULT_LIMITS) -> ImageClaims:
    """What the image says of itself. Raises ImageRefused for what is not of the format."""
    maps = read_maps(blobs, manifest, limits)
    config = read_document(blobs, manifest.config.digest, limits.document, manifest.config.size)
    return claims_of_maps(maps, manifest, config)


def claims_of_maps(maps: tuple[LayerMap, ...], manifest: SecureManifest, config: bytes) -> ImageClaims:
    """The same, of maps and a config that were read before."""
    if not maps:
        raise ImageRefused("the image has no layers: pull the image again", Refusal.CHAIN)
    last = maps[-1].plan
    members = load_object(config, "the config")
    process = members.get("config")
    return ImageClaims(
        id=last.image.hex(),
        version=last.version,
        root=manifest.image_root.hex(),
        volume=last.volume_blocks * BLOCK,
        stored=sum(one.data_blocks for one in maps) * BLOCK,
        wrapped=tuple(sorted(manifest.wrapped_keys)),
        architecture=f"{members.get('os', 'unknown')}/{members.get('architecture', 'unknown')}",
        process={name: process[name] for name in _SHOWN if process.get(name)}
        if isinstance(process, dict)
        else {},
        layers=tuple(_layer(one, named.map.digest) for one, named in zip(maps, manifest.layers, strict=True)),
    )


def _layer(one: LayerMap, digest: str) -> LayerClaims:
    return LayerClaims(
        layer=one.plan.layer,
        cipher=str(one.plan.cipher),
        encrypted=one.plan.cipher is not Cipher.CLEAR,
        blocks=one.data_blocks,
        zero=blocks_in(one.plan.zero),
        runs=len(one.plan.extents),
        map=digest,
        data=one.data,
        source=one.plain_diff_id,
    )
