"""The manifest and the config of a secure image: an OCI image that registries carry and ordinary runtimes refuse.

Three blobs per layer, bottom first: its map, its tags, its blocks. The config is the source's own, but for `rootfs`, which names
these blobs instead of the source's tars. Nothing in the manifest is trusted: what counts is in the maps
and under the image root.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.layer_map import Cipher
from keyvisor_guest.containers.limits import DEFAULT_LIMITS, Limits
from keyvisor_guest.containers.oci.documents import (
    Descriptor,
    Manifest,
    load_object,
    manifest_bytes,
    read_manifest,
)
from keyvisor_guest.containers.oci.quoting import quoted

__all__ = [
    "BLOCKS_TYPES",
    "CONFIG_TYPE",
    "IMAGE_ROOT",
    "LAYER",
    "MAP_TYPE",
    "NAMESPACE",
    "TAGS_TYPE",
    "TREE_TYPE",
    "WRAPPED_KEY",
    "LayerBlobs",
    "SecureManifest",
    "is_secure",
    "parse_secure_manifest",
    "rewrapped",
    "secure_config",
    "secure_manifest",
]

NAMESPACE: Final = "io.keyvisor"
IMAGE_ROOT: Final = f"{NAMESPACE}.image-root"
LAYER: Final = f"{NAMESPACE}.layer"
WRAPPED_KEY: Final = f"{NAMESPACE}.volume-key."  # and the scheme: `jwe`, `pkcs11`, `provider.NAME`

_VENDOR: Final = "application/vnd.keyvisor.seccontainer"
CONFIG_TYPE: Final = "application/vnd.oci.image.config.v1+json"
MAP_TYPE: Final = f"{_VENDOR}.layermap.v1+json"
TAGS_TYPE: Final = f"{_VENDOR}.blocktags.v1"
TREE_TYPE: Final = f"{_VENDOR}.blocktree.v1"
BLOCKS_TYPES: Final[Mapping[Cipher, str]] = MappingProxyType(
    {
        Cipher.GCM: f"{_VENDOR}.blocks.v1+aes256gcm",
        Cipher.XTS: f"{_VENDOR}.blocks.v1+aes256xts",
        Cipher.CLEAR: f"{_VENDOR}.blocks.v1",
    }
)
_PER_LAYER: Final = 3
_SCHEME: Final = re.compile(r"jwe|pkcs11|provider\.[A-Za-z0-9_-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class LayerBlobs:
    """One layer's three blobs."""

    map: Descriptor
    tags: Descriptor
    data: Descriptor


@dataclass(frozen=True, slots=True)
class SecureManifest:
    """A secure image's manifest, as it claims to be. `wrapped_keys`: the volume key for recipients, by scheme."""

    config: Descriptor
    layers: tuple[LayerBlobs, ...]
    image_root: bytes
    wrapped_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    annotations: Mapping[str, str] = field(default_factory=dict)  # others', kept as they are


def secure_config(source: bytes, layers: Sequence[LayerBlobs]) -> bytes:
    """The source's config with our blobs in `rootfs`: entrypoint, environment, user and history stay. Raises ImageRefused."""
    members = load_object(source, "the source's config")
    blobs = [one.digest for layer in layers for one in (layer.map, layer.tags, layer.data)]
    members["rootfs"] = {"type": "layers", "diff_ids": blobs}
    return json.dumps(members, sort_keys=True, separators=(",", ":")).encode("ascii")


def secure_manifest(image: SecureManifest) -> bytes:
    """The manifest's bytes. Raises ValueError for a scheme that is none, or an annotation in our name space."""
    annotations = dict(image.annotations)
    if any(name.startswith(f"{NAMESPACE}.") for name in annotations):
        raise ValueError(f"annotations under `{NAMESPACE}` are the image's own")
    annotations[IMAGE_ROOT] = image.image_root.hex()
    for scheme, wrapped in image.wrapped_keys.items():
        if not _SCHEME.fullmatch(scheme):
            raise ValueError(f"`{scheme}` is no way to wrap a key: `jwe`, `pkcs11` or `provider.NAME` is")
        annotations[WRAPPED_KEY + scheme] = wrapped
    layers = tuple(one for layer in image.layers for one in (layer.map, layer.tags, layer.data))
    return manifest_bytes(Manifest(image.config, layers, annotations))


def rewrapped(data: bytes, wrapped_keys: Mapping[str, str]) -> bytes:
    """The manifest with its volume key wrapped for others: no blob changes, and neither does the image root.

    Raises ImageRefused for what is no secure manifest, ValueError for a scheme that is none.
    """
    return secure_manifest(replace(parse_secure_manifest(data), wrapped_keys=wrapped_keys))


def is_secure(manifest: Manifest) -> bool:
    """Whether this is meant to be a secure image."""
    return any(layer.media_type.startswith(_VENDOR) for layer in manifest.layers)


def parse_secure_manifest(data: bytes, limits: Limits = DEFAULT_LIMITS) -> SecureManifest:
    """A secure image's manifest from its bytes. Raises ImageRefused for an ordinary image, and for a mixed one."""
    manifest = read_manifest(data)
    if not is_secure(manifest):
        raise ImageRefused("this is an ordinary image: make a secure one of it with `keyvisor image build`")
    if manifest.config.media_type != CONFIG_TYPE:
        raise ImageRefused(
            f"the config is of the type {quoted(manifest.config.media_type)}: pull the image again"
        )
    count, left = divmod(len(manifest.layers), _PER_LAYER)
    if count > limits.layers:
        raise ImageRefused(f"the image has {count} layers, at most {limits.layers} are read", Refusal.LIMIT)
    if left:
        raise ImageRefused(
            "a layer lacks its map, its tags or its blocks: pull the image again", Refusal.CHAIN
        )
    root = manifest.annotations.get(IMAGE_ROOT, "")
    if not re.fullmatch("[0-9a-f]{64}", root, re.ASCII):
        raise ImageRefused(f"the annotation `{IMAGE_ROOT}` is no root: pull the image again")
    return SecureManifest(
        manifest.config,
        tuple(_layer(number, manifest.layers[_PER_LAYER * number :]) for number in range(count)),
        bytes.fromhex(root),
        {
            name.removeprefix(WRAPPED_KEY): text
            for name, text in manifest.annotations.items()
            if name.startswith(WRAPPED_KEY)
        },
        {name: text for name, text in manifest.annotations.items() if not name.startswith(f"{NAMESPACE}.")},
    )


def _layer(number: int, blobs: Sequence[Descriptor]) -> LayerBlobs:
    layer = LayerBlobs(*blobs[:_PER_LAYER])
    if (
        layer.map.media_type != MAP_TYPE
        or layer.tags.media_type not in (TAGS_TYPE, TREE_TYPE)
        or layer.data.media_type not in BLOCKS_TYPES.values()
        or any(one.annotations.get(LAYER) != str(number) for one in blobs[:_PER_LAYER])
    ):
        raise ImageRefused(
            f"layer {number} is not a map, its tags and its blocks: pull the image again", Refusal.CHAIN
        )
    return layer
