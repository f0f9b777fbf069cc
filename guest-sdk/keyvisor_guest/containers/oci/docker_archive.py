"""A docker archive: what `docker save` and `skopeo copy ... docker-archive:` write, one tar with a config and the layers' tars.

Layers are found by the archive's `manifest.json` and read in place; nothing is unpacked. Format: Docker image specification 1.2.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, cast

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.limits import DEFAULT_LIMITS, Limits
from keyvisor_guest.containers.oci.documents import load_list
from keyvisor_guest.containers.oci.quoting import quoted

__all__ = ["DockerArchive"]

_MAX_MEMBERS: Final = 10_000
_LINKS: Final = 8  # a layer may be a link to the same layer of another image


class DockerArchive:
    """The archive at `path`, open. Raises ImageRefused for what is none, compressed ones included."""

    def __init__(self, path: Path, limits: Limits = DEFAULT_LIMITS) -> None:
        self._path: Final = path
        self._limits: Final = limits
        self._members: Final[dict[str, tarfile.TarInfo]] = {}
        self._file = _Bounded(path.open("rb"), limits)
        try:
            self._tar = tarfile.open(fileobj=self._file, mode="r:")  # noqa: SIM115 closed in `close`
            self._index()
            self._images = load_list(self._read("manifest.json"), "the archive's `manifest.json`")
        except (tarfile.TarError, ImageRefused, EOFError, ValueError) as error:
            self._file.close()
            if isinstance(error, ImageRefused):
                raise
            raise ImageRefused(
                f"`{path}` is no docker archive: if it is compressed, decompress it first"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the archive, and with it its layers."""
        self._tar.close()
        self._file.close()

    def image(self, tag: str | None = None) -> tuple[bytes, tuple[str, ...]]:
        """The config and the layers' names in the archive, bottom first: of the image with this tag, or of the only one."""
        found = [one for one in self._images if tag is None or tag in _texts(one, "RepoTags")]
        if len(found) != 1:
            tags = ", ".join(quoted(one) for image in self._images for one in _texts(image, "RepoTags"))
            raise ImageRefused(
                f"`{self._path}` has {len(found)} such images: name one of {tags or 'its tags'}",
                Refusal.MISSING,
            )
        config = found[0].get("Config")
        layers = _texts(found[0], "Layers")
        if not isinstance(config, str) or len(layers) > self._limits.layers:
            raise ImageRefused(f"`{self._path}` has an image without a config, or with too many layers")
        return self._read(config), tuple(layers)

    def open_layer(self, name: str) -> BinaryIO:
        """A layer's tar, compressed or not, from its start on. Raises ImageRefused."""
        extracted = self._tar.extractfile(self._file_named(name))
        if extracted is None:
            raise self._lacks(name)
        self._file.indexed = True
        return cast(BinaryIO, extracted)

    def _index(self) -> None:
        for number, member in enumerate(self._tar):
            if number >= _MAX_MEMBERS:
                raise ImageRefused(f"`{self._path}` has more than {_MAX_MEMBERS} members", Refusal.LIMIT)
            self._members[posixpath.normpath(member.name)] = member

    def _file_named(self, name: str) -> tarfile.TarInfo:
        place = posixpath.normpath(name)
        for _ in range(_LINKS):
            member = self._members.get(place)
            if member is None:
                raise self._lacks(name)
            if member.isreg():
                return member
            base = posixpath.dirname(place) if member.issym() else ""
            place = posixpath.normpath(posixpath.join(base, member.linkname))
        raise self._lacks(name)

    def _read(self, name: str) -> bytes:
        member = self._file_named(name)
        if member.size > self._limits.document:
            raise ImageRefused(f"{quoted(name)} in `{self._path}` is too long", Refusal.LIMIT)
        extracted = self._tar.extractfile(member)
        if extracted is None:
            raise self._lacks(name)
        with extracted:
            return extracted.read()

    def _lacks(self, name: str) -> ImageRefused:
        return ImageRefused(f"`{self._path}` lacks {quoted(name)}: save the image again", Refusal.MISSING)


class _Bounded(io.RawIOBase):
    """While the archive is indexed no read is long: `tarfile` reads a PAX header as long as it says it is."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        self._file = file
        self._longest = max(limits.pax_header, limits.document) + tarfile.RECORDSIZE
        self.indexed = False

    def read(self, size: int = -1, /) -> bytes:
        if not self.indexed and not 0 <= size <= self._longest:
            raise ImageRefused("a header in the archive is too long", Refusal.LIMIT)
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def _texts(image: dict[str, Any], name: str) -> list[str]:
    found = image.get(name) or []
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ImageRefused(f"`{name}` in the archive's `manifest.json` is no list of texts")
    return found
