"""An OCI layout: a directory with `oci-layout`, `index.json` and blobs, as skopeo reads and writes it.

Format: OCI image specification 1.0, `image-layout.md`. The index is written last and as a whole, so a layout never names
an image that is half there.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from keyvisor_guest.containers import canonical_json
from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.limits import DEFAULT_LIMITS
from keyvisor_guest.containers.oci.blobs import BlobDirectory
from keyvisor_guest.containers.oci.documents import INDEX, Descriptor, index_entries, load_object
from keyvisor_guest.containers.oci.quoting import quoted

__all__ = ["LATEST", "REF_NAME", "OciLayout"]

LATEST: Final = "latest"  # the tag of an image that was given none
REF_NAME: Final = "org.opencontainers.image.ref.name"
_VERSION: Final = "1.0.0"


class OciLayout:
    """The layout in the directory `path`."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self.blobs: Final = BlobDirectory(path)

    def create(self) -> None:
        """Make the directory a layout; one that is there stays as it is. Raises ImageRefused for a directory of another kind."""
        self.path.mkdir(parents=True, exist_ok=True)
        if (self.path / "oci-layout").exists():
            self.check()
        elif any(self.path.iterdir()):
            raise ImageRefused(
                f"`{self.path}` holds something else than an OCI layout: name an empty directory"
            )
        else:
            self._write("oci-layout", {"imageLayoutVersion": _VERSION})
            self._write("index.json", {"schemaVersion": 2, "mediaType": INDEX, "manifests": []})

    def check(self) -> None:
        """Raises ImageRefused where the directory is no layout of this version."""
        found = load_object(self._read("oci-layout"), f"`{self.path / 'oci-layout'}`")
        if found.get("imageLayoutVersion") != _VERSION:
            raise ImageRefused(f"`{self.path}` is an OCI layout of another version than {_VERSION}")

    def images(self) -> tuple[Descriptor, ...]:
        """What the index names, in its order. Raises ImageRefused."""
        self.check()
        return index_entries(self._read("index.json"))

    def find(self, tag: str | None = None) -> Descriptor:
        """The image with this tag; without one, the only image. Raises ImageRefused."""
        images = self.images()
        found = [one for one in images if tag is None or one.annotations.get(REF_NAME) == tag]
        if len({one.digest for one in found}) == 1:
            return found[0]
        tags = ", ".join(quoted(one.annotations.get(REF_NAME, one.digest)) for one in images) or "none"
        wanted = "without a tag" if tag is None else f"with the tag `{tag}`"
        raise ImageRefused(f"`{self.path}` has {len(found)} images {wanted}: it has {tags}", Refusal.MISSING)

    def tag(self, image: Descriptor, tag: str = LATEST) -> None:
        """Name an image in the index; what had the tag before has it no more."""
        named = Descriptor(image.media_type, image.digest, image.size, {**image.annotations, REF_NAME: tag})
        others = [one for one in self.images() if one.annotations.get(REF_NAME) != tag]
        members = [one.members() for one in (*others, named)]
        self._write("index.json", {"schemaVersion": 2, "mediaType": INDEX, "manifests": members})

    def replace(self, old: Descriptor, new: Descriptor) -> None:
        """Let the index name `new` where it names `old` by the same tag, or by none. Raises ImageRefused."""
        tag = old.annotations.get(REF_NAME)
        members = [
            (new if (one.digest, one.annotations.get(REF_NAME)) == (old.digest, tag) else one).members()
            for one in self.images()
        ]
        self._write("index.json", {"schemaVersion": 2, "mediaType": INDEX, "manifests": members})

    def _read(self, name: str) -> bytes:
        try:
            with (self.path / name).open("rb") as file:
                data = file.read(DEFAULT_LIMITS.document + 1)
        except OSError as error:
            raise ImageRefused(
                f"`{self.path}` is no OCI layout: `{name}` cannot be read ({error.strerror})", Refusal.MISSING
            ) from error
        if len(data) > DEFAULT_LIMITS.document:
            raise ImageRefused(f"`{self.path / name}` is too long", Refusal.LIMIT)
        return data

    def _write(self, name: str, members: Mapping[str, Any]) -> None:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}-", dir=self.path)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o644)
            file.write(_spelled(members))
        Path(temporary).replace(self.path / name)


def _spelled(members: Mapping[str, Any]) -> bytes:
    """Canonical where it can be: an index of others may hold what canonical JSON has no spelling for."""
    try:
        return canonical_json.encode(dict(members))
    except canonical_json.NotCanonical:
        return json.dumps(members, sort_keys=True).encode()
