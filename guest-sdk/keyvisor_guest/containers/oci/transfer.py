"""Whole images between registries and layouts: blobs first, the manifest last, and every digest checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.limits import DEFAULT_LIMITS
from keyvisor_guest.containers.oci.blobs import BlobSource, read_document
from keyvisor_guest.containers.oci.documents import (
    INDEXES,
    MANIFESTS,
    Descriptor,
    index_entries,
    read_manifest,
)
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.quoting import quoted
from keyvisor_guest.containers.oci.registry import Registry

__all__ = ["choose_manifest", "pull", "push"]

_DEPTH: Final = 3  # indexes within indexes
_LARGEST: Final = (
    DEFAULT_LIMITS.uncompressed * 5 // 4
)  # bytes: all blobs of an image, with what its file system adds


def pull(
    registry: Registry,
    layout: OciLayout,
    tag: str,
    architecture: str = "amd64",
    progress: Callable[[int, int], None] | None = None,
) -> Descriptor:
    """Get the registry's image into the layout, under `tag`. Of several platforms Linux on `architecture` is taken.

    `progress(done, all)` is told of bytes. Raises RegistryFailed, ImageRefused; the layout then names nothing new.
    """
    layout.create()
    found, data = registry.manifest(registry.reference.name)
    for _ in range(_DEPTH):
        if found.media_type not in INDEXES:
            break
        found, data = registry.manifest(_for_platform(index_entries(data), architecture).digest)
    if found.media_type not in MANIFESTS:
        raise ImageRefused(f"`{registry.reference}` is a {quoted(found.media_type)}, and no image")
    manifest = read_manifest(data)
    wanted = {one.digest: one for one in (manifest.config, *manifest.layers)}
    done, total = 0, sum(one.size for one in wanted.values())
    if total > _LARGEST:
        raise ImageRefused(
            f"`{registry.reference}` has {total} bytes, at most {_LARGEST} are pulled", Refusal.LIMIT
        )
    for blob in wanted.values():
        done += registry.pull_blob(blob, layout.blobs).size
        if progress:
            progress(done, total)
    layout.blobs.put(data)
    layout.tag(found, tag)
    return found


def push(
    layout: OciLayout,
    image: Descriptor,
    registry: Registry,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Store the layout's image under the registry's reference. Raises RegistryFailed, ImageRefused."""
    data = read_document(layout.blobs, image.digest, DEFAULT_LIMITS.document)
    manifest = read_manifest(data)
    wanted = {one.digest: one for one in (manifest.config, *manifest.layers)}
    done, total = 0, sum(one.size for one in wanted.values())
    for blob in wanted.values():
        registry.push_blob(blob, layout.blobs)
        done += blob.size
        if progress:
            progress(done, total)
    registry.push_manifest(registry.reference.name, image.media_type, data)


def choose_manifest(
    blobs: BlobSource, image: Descriptor, architecture: str = "amd64"
) -> tuple[Descriptor, bytes]:
    """An image's manifest in a layout; of an index, that for Linux on `architecture`. Raises ImageRefused."""
    for _ in range(_DEPTH + 1):
        data = read_document(blobs, image.digest, DEFAULT_LIMITS.document)
        if image.media_type in MANIFESTS:
            return image, data
        if image.media_type not in INDEXES:
            break
        image = _for_platform(index_entries(data), architecture)
    raise ImageRefused(f"{image.digest} is a {quoted(image.media_type)}, and no image")


def _for_platform(entries: tuple[Descriptor, ...], architecture: str) -> Descriptor:
    for one in entries:
        if (one.platform.get("os"), one.platform.get("architecture")) == ("linux", architecture):
            return one
    if len(entries) == 1 and not entries[0].platform:
        return entries[0]
    there = ", ".join(
        quoted(f"{one.platform.get('os')}/{one.platform.get('architecture')}") for one in entries
    )
    raise ImageRefused(
        f"there is no image for `linux/{architecture}`: there is {there or 'none'}", Refusal.MISSING
    )
