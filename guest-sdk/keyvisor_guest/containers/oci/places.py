"""Where an image is, as skopeo spells it: `oci:DIR[:TAG]`, `docker-archive:FILE[:TAG]`, `docker://HOST/NAME[:TAG][@DIGEST]`.

A bare path stands for a layout. Looks at no file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from keyvisor_guest.containers.errors import ImageRefused
from keyvisor_guest.containers.oci.quoting import quoted
from keyvisor_guest.containers.oci.references import Reference

__all__ = [
    "ArchivePlace",
    "LayoutPlace",
    "Place",
    "RegistryPlace",
    "parse_layout",
    "parse_place",
    "parse_registry",
]

_LAYOUT: Final = "oci:"
_ARCHIVE: Final = "docker-archive:"
_REGISTRY: Final = "docker://"
# Others that skopeo knows: without this they would be taken for directories of these names.
_FOREIGN: Final = re.compile(
    r"(dir|oci-archive|containers-storage|docker-daemon|ostree|sif|tarball|https?):", re.ASCII
)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/:@-]{0,255}", re.ASCII)


@dataclass(frozen=True, slots=True)
class LayoutPlace:
    """An image in an OCI layout; without a tag the only one in it."""

    path: Path
    tag: str | None = None

    def __str__(self) -> str:
        return f"oci:{self.path}" + (f":{self.tag}" if self.tag else "")


@dataclass(frozen=True, slots=True)
class ArchivePlace:
    """An image in a docker archive; without a tag the only one in it."""

    path: Path
    tag: str | None = None

    def __str__(self) -> str:
        return f"docker-archive:{self.path}" + (f":{self.tag}" if self.tag else "")


@dataclass(frozen=True, slots=True)
class RegistryPlace:
    """An image in a registry."""

    reference: Reference

    def __str__(self) -> str:
        return f"docker://{self.reference}"


Place: TypeAlias = LayoutPlace | ArchivePlace | RegistryPlace


def parse_place(text: str) -> Place:
    """A place from its text. Raises ImageRefused."""
    if text.startswith(_REGISTRY):
        return RegistryPlace(Reference.parse(text.removeprefix(_REGISTRY)))
    if text.startswith(_ARCHIVE):
        return ArchivePlace(*_path_and_tag(text.removeprefix(_ARCHIVE), text))
    if _FOREIGN.match(text):
        raise ImageRefused(
            f"{quoted(text)} is of a kind that is not read here: copy it with `skopeo copy` to `oci:DIR:TAG`"
        )
    return LayoutPlace(*_path_and_tag(text.removeprefix(_LAYOUT), text))


def parse_layout(text: str) -> LayoutPlace:
    """A place that has to be a layout. Raises ImageRefused."""
    place = parse_place(text)
    if not isinstance(place, LayoutPlace):
        raise ImageRefused(
            f"{quoted(text)} is no OCI layout, which is wanted here: write `oci:DIR[:TAG]`; `keyvisor image pull`"
            " gets an image out of a registry into one"
        )
    return place


def parse_registry(text: str) -> RegistryPlace:
    """A place that has to be in a registry. Raises ImageRefused."""
    place = parse_place(text)
    if not isinstance(place, RegistryPlace):
        raise ImageRefused(
            f"{quoted(text)} is in no registry, as is wanted here: write `docker://HOST/NAME[:TAG]`"
        )
    return place


def _path_and_tag(text: str, whole: str) -> tuple[Path, str | None]:
    """Divided at the first colon, as skopeo does."""
    path, colon, tag = text.partition(":")
    if not path or "\0" in path or (colon and not _TAG.fullmatch(tag)):
        raise ImageRefused(f"{quoted(whole)} names no image: write `oci:DIR[:TAG]`")
    return Path(path), tag or None
