"""An ordinary image to build from, wherever it is: a layout, a docker archive, or a registry, from which it is pulled first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keyvisor_guest.cli.image_places import pulled
from keyvisor_guest.cli.image_progress import Tell
from keyvisor_guest.containers.oci.docker_archive import DockerArchive
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.places import ArchivePlace, LayoutPlace, Place, RegistryPlace
from keyvisor_guest.containers.oci.sources import SourceImage, from_docker_archive, from_layout

__all__ = ["SourceOptions", "opened"]

_PULLED: Final = "pulled"  # the directory of a layout in the work directory


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How sources are read."""

    architecture: str
    authfile: Path | None = None
    insecure_http: bool = False


@contextmanager
def opened(place: Place, options: SourceOptions, work: Path, tell: Tell) -> Iterator[SourceImage]:
    """The source, open; what is pulled goes into `work`. Raises ImageRefused, RegistryFailed, OSError."""
    match place:
        case LayoutPlace(path, tag):
            layout = OciLayout(path)
            yield from_layout(layout, layout.find(tag), options.architecture)
        case ArchivePlace(path, tag):
            with DockerArchive(path) as archive:
                yield from_docker_archive(archive, tag)
        case RegistryPlace():
            layout = OciLayout(work / _PULLED)
            found = pulled(
                place,
                layout,
                tell,
                architecture=options.architecture,
                authfile=options.authfile,
                insecure_http=options.insecure_http,
            )
            yield from_layout(layout, found, options.architecture)
