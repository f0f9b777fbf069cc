"""The JSON documents of OCI images: descriptors, manifests and indexes, as anybody may have written them.

Read strictly where it matters (digests, sizes, types), passed over where it does not. Formats: OCI image specification 1.0,
`descriptor.md`, `manifest.md`, `image-index.md`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from keyvisor_guest.containers import canonical_json
from keyvisor_guest.containers.errors import ImageRefused
from keyvisor_guest.containers.oci.digests import Digest, parse_digest

__all__ = [
    "DOCKER_INDEX",
    "DOCKER_MANIFEST",
    "INDEX",
    "INDEXES",
    "MANIFEST",
    "MANIFESTS",
    "Descriptor",
    "Manifest",
    "descriptor",
    "index_entries",
    "load_list",
    "load_object",
    "manifest_bytes",
    "read_manifest",
]

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFESTS: Final = frozenset({MANIFEST, DOCKER_MANIFEST})
INDEXES: Final = frozenset({INDEX, DOCKER_INDEX})

_MAX_SIZE: Final = 1 << 60
_MAX_LAYERS: Final = 1024  # of any manifest: four blobs for each of 128 layers, and room


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a document says of a blob."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Mapping[str, Any] = field(default_factory=dict)

    def members(self) -> dict[str, Any]:
        """As it is written."""
        members: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.annotations:
            members["annotations"] = dict(self.annotations)
        if self.platform:
            members["platform"] = dict(self.platform)
        return members


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image's config and layers."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)


def load_object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object in which no member is twice. Raises ImageRefused."""
    value = _load(data, what)
    if not isinstance(value, dict):
        raise ImageRefused(f"{what} is not a JSON object")
    return value


def load_list(data: bytes, what: str) -> list[dict[str, Any]]:
    """A JSON list of objects in which no member is twice. Raises ImageRefused."""
    value = _load(data, what)
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ImageRefused(f"{what} is not a JSON list of objects")
    return value


def descriptor(value: Any, what: str) -> Descriptor:
    """A descriptor out of a document. Raises ImageRefused."""
    if not isinstance(value, dict):
        raise ImageRefused(f"{what} has no descriptor where one should be")
    media_type, size = value.get("mediaType"), value.get("size")
    if not isinstance(media_type, str) or type(size) is not int or not 0 <= size <= _MAX_SIZE:
        raise ImageRefused(f"{what} has a descriptor without a media type or a size")
    platform = value.get("platform")
    return Descriptor(
        media_type,
        parse_digest(value.get("digest")),
        size,
        _annotations(value, what),
        platform if isinstance(platform, dict) else {},
    )


def read_manifest(data: bytes) -> Manifest:
    """A manifest from its bytes. Raises ImageRefused."""
    value = load_object(data, "the manifest")
    if value.get("schemaVersion") != 2:  # the only one there is
        raise ImageRefused("the manifest's schema version is not 2")
    return Manifest(
        descriptor(value.get("config"), "the manifest"),
        tuple(descriptor(one, "the manifest") for one in _list(value, "layers")),
        _annotations(value, "the manifest"),
    )


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as it is stored: the same for the same, byte for byte."""
    members: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": manifest.config.members(),
        "layers": [layer.members() for layer in manifest.layers],
    }
    if manifest.annotations:
        members["annotations"] = dict(manifest.annotations)
    return canonical_json.encode(members)


def index_entries(data: bytes) -> tuple[Descriptor, ...]:
    """The manifests that an index names. Raises ImageRefused."""
    value = load_object(data, "the index")
    return tuple(descriptor(one, "the index") for one in _list(value, "manifests"))


def _load(data: bytes, what: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_members, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ImageRefused(f"{what} is not JSON, or has a member twice") from error


def _list(value: dict[str, Any], name: str) -> list[Any]:
    found = value.get(name)
    if not isinstance(found, list) or len(found) > _MAX_LAYERS:
        raise ImageRefused(f"`{name}` is no list of at most {_MAX_LAYERS}")
    return found


def _annotations(value: dict[str, Any], what: str) -> dict[str, str]:
    found = value.get("annotations")
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise ImageRefused(f"{what} has annotations that are no texts")
    return found


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is there twice")
    return members


def _no_number(text: str) -> None:
    raise ValueError(f"`{text}` is no number")
