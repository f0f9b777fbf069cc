"""An ordinary image to build from: its config, and its layers' tars one by one, bottom first. From a layout or a docker archive.

What an image's blobs are is checked while they are copied or before they are handed out: a layer's bytes have their digest.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.limits import DEFAULT_LIMITS, Limits
from keyvisor_guest.containers.oci.blobs import BlobFile, read_document, verify_blob
from keyvisor_guest.containers.oci.digests import Digest, parse_digest
from keyvisor_guest.containers.oci.docker_archive import DockerArchive
from keyvisor_guest.containers.oci.documents import Descriptor, load_object, read_manifest
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.quoting import quoted
from keyvisor_guest.containers.oci.secure_image import is_secure
from keyvisor_guest.containers.oci.transfer import choose_manifest

__all__ = ["SourceImage", "SourceLayer", "from_docker_archive", "from_layout"]

_TAR_TYPES = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
)


@dataclass(frozen=True, slots=True)
class SourceLayer:
    """One layer. `open()` gives its tar, compressed or not; `diff_id` is what the uncompressed tar has to hash to."""

    diff_id: Digest
    open: Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An ordinary image's config, as JSON, and its layers."""

    config: bytes
    layers: tuple[SourceLayer, ...]


def from_layout(
    layout: OciLayout,
    image: Descriptor,
    architecture: str = "amd64",
    limits: Limits = DEFAULT_LIMITS,
) -> SourceImage:
    """The image in a layout. Raises ImageRefused for encrypted and for secure ones, too."""
    _, data = choose_manifest(layout.blobs, image, architecture)
    manifest = read_manifest(data)
    if is_secure(manifest):
        raise ImageRefused("this is a secure image already: run it, or build from its source")
    for layer in manifest.layers:
        if layer.media_type.endswith("+encrypted"):
            raise ImageRefused(
                "the image's layers are encrypted: `keyvisor image ocicrypt decrypt` decrypts it"
            )
        if not layer.media_type.startswith(_TAR_TYPES):
            raise ImageRefused(f"a layer is a {quoted(layer.media_type)}, and no tar")
    config = read_document(layout.blobs, manifest.config.digest, limits.document, manifest.config.size)

    def opener(blob: Descriptor) -> Callable[[], BinaryIO]:
        def open_layer() -> BinaryIO:
            verify_blob(layout.blobs, blob.digest)
            return io.BufferedReader(_Blob(layout.blobs.open(blob.digest)))

        return open_layer

    return _source(config, [opener(layer) for layer in manifest.layers], limits)


def from_docker_archive(
    archive: DockerArchive, tag: str | None = None, limits: Limits = DEFAULT_LIMITS
) -> SourceImage:
    """The image in an open docker archive. Raises ImageRefused."""
    config, names = archive.image(tag)
    return _source(config, [lambda name=name: archive.open_layer(name) for name in names], limits)  # type: ignore[misc]


def _source(config: bytes, openers: list[Callable[[], BinaryIO]], limits: Limits) -> SourceImage:
    rootfs = load_object(config, "the image's config").get("rootfs")
    named = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(named, list) or len(named) != len(openers):
        raise ImageRefused("the config and the manifest do not have the same number of layers")
    if not openers:
        raise ImageRefused("the image has no layers: there is nothing to run in it")
    if len(openers) > limits.layers:
        raise ImageRefused(
            f"the image has {len(openers)} layers, at most {limits.layers} are read", Refusal.LIMIT
        )
    layers = zip(named, openers, strict=True)
    return SourceImage(config, tuple(SourceLayer(parse_digest(one), opener) for one, opener in layers))


class _Blob(io.RawIOBase):
    """A blob as a file that is read from its start to its end."""

    def __init__(self, blob: BlobFile) -> None:
        self._blob = blob
        self._offset = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        data = self._blob.read_at(self._offset, len(buffer))
        buffer[: len(data)] = data
        self._offset += len(data)
        return len(data)

    def close(self) -> None:
        self._blob.close()
        super().close()
