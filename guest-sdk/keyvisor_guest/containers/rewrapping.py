"""An image's key wrapped for others: the manifest gets other annotations, and no blob and no root changes.

Taking a recipient away keeps nobody out who has opened the key before, or has kept the old manifest: that takes another key, and
so another build. The old manifest leaves the layout where nothing else names it. Knows neither how keys are wrapped nor for whom.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keyvisor_guest.containers.errors import ImageRefused
from keyvisor_guest.containers.limits import DEFAULT_LIMITS
from keyvisor_guest.containers.oci.blobs import read_document
from keyvisor_guest.containers.oci.documents import Descriptor
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.secure_image import parse_secure_manifest, rewrapped
from keyvisor_guest.containers.reader import ImageReader
from keyvisor_guest.containers.release import Release

__all__ = ["Rewrapped", "rewrap"]


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """The image with its new manifest, and the schemes under which its key is wrapped now."""

    image: Descriptor
    schemes: tuple[str, ...]


def rewrap(
    layout: OciLayout, image: Descriptor, release: Release, wrapped: Mapping[str, str], *, drop: bool
) -> Rewrapped:
    """Put `wrapped`, the release by scheme, into the image's manifest, in the place of the one that the index names.

    The release has to open the image first. With `drop` it is wrapped for nobody else any more; without, who is there stays.
    Raises ImageRefused for what the release does not open, and where nothing would be left.
    """
    data = read_document(layout.blobs, image.digest, DEFAULT_LIMITS.document)
    with ImageReader.open(layout.blobs, image.digest, release.key, release.demand):
        pass
    before = {} if drop else parse_secure_manifest(data).wrapped_keys
    after = {**before, **{scheme: _joined(before.get(scheme), text) for scheme, text in wrapped.items()}}
    if not after:
        raise ImageRefused("for nobody? name a recipient, or the image's key is in no manifest any more")
    stored = layout.blobs.put(rewrapped(data, after))
    made = Descriptor(image.media_type, stored.digest, stored.size, image.annotations, image.platform)
    layout.replace(image, made)
    if image.digest not in {one.digest for one in layout.images()}:
        layout.blobs.path_of(image.digest).unlink(missing_ok=True)
    return Rewrapped(made, tuple(sorted(after)))


def _joined(before: str | None, text: str) -> str:
    """As ocicrypt joins what was wrapped at several times."""
    return text if before is None else f"{before},{text}"
