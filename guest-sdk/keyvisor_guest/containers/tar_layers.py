"""One layer of an image, read as a stream of entries: archive, extended headers, data (POSIX pax; OCI image-spec, layer.md).

Counts while it reads and keeps nothing. Knows no volume.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from keyvisor_guest.containers.budget import Budget
from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.inflating import InflatedStream
from keyvisor_guest.containers.tar_entries import ADDITIONS, OVERRIDES, Entry, EntryPath, Kind, entry_of
from keyvisor_guest.containers.tar_headers import BLOCK, Header, TypeFlag, parse_header, parse_records

__all__ = ["Entry", "EntryPath", "Kind", "LayerReader"]

CHUNK = 256 << 10
# Headers that say more about the next one, with the record that a GNU one stands for.
_EXTENSIONS = {
    TypeFlag.EXTENDED: b"",
    TypeFlag.GLOBAL: b"",
    TypeFlag.GNU_LONG_NAME: b"path",
    TypeFlag.GNU_LONG_LINK: b"linkpath",
}


class LayerReader:
    """The entries of one layer's blob, in its order. Raises ImageRefused at the first that is not allowed.

    `diff_id` is known once all entries were read.
    """

    def __init__(self, blob: BinaryIO, budget: Budget) -> None:
        self._stream = InflatedStream(blob, budget)
        self._budget = budget
        self._left = 0  # of the current entry's data, with its padding

    def __iter__(self) -> Iterator[Entry]:
        while (header := self._next_header()) is not None:
            described = self._extended(header)
            if described is None:
                break
            self._budget.take_entry()
            yield entry_of(*described, self._budget.limits, self._data)
            self._skip()
        self._check_end()

    def diff_id(self) -> str:
        """`sha256:...` over the tar archive; meaningful after the last entry."""
        return self._stream.diff_id()

    def _next_header(self) -> Header | None:
        return parse_header(self._exactly(BLOCK))

    def _extended(self, header: Header) -> tuple[Header, dict[bytes, bytes]] | None:
        """The entry's own header behind those that extend it, with what they say; None where the archive ends."""
        records: dict[bytes, bytes] = {}
        while header.flag in _EXTENSIONS:
            data = self._extension(header.size)
            if header.flag is TypeFlag.EXTENDED:
                records |= parse_records(data)
            elif header.flag is TypeFlag.GLOBAL:
                _check_global(parse_records(data))
            else:
                records[_EXTENSIONS[header.flag]] = data.rstrip(b"\0")
            following = self._next_header()
            if following is None:
                if records:
                    raise ImageRefused("a layer ends behind an extended header: pull the image again")
                return None
            header = following
        return header, records

    def _extension(self, size: int) -> bytes:
        if size > self._budget.limits.pax_header:
            raise ImageRefused(
                f"a layer has an extended header of {size} bytes, more than {self._budget.limits.pax_header}: "
                "build the image again",
                Refusal.LIMIT,
            )
        return self._exactly(size + -size % BLOCK)[:size]

    def _data(self, size: int) -> Iterator[bytes]:
        """The data that stands next. What is not asked for is skipped."""
        self._left = size + -size % BLOCK
        return self._pieces(size)

    def _pieces(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self._exactly(min(size, CHUNK))
            size -= len(piece)
            self._left -= len(piece)
            yield piece

    def _skip(self) -> None:
        while self._left:
            self._left -= len(self._exactly(min(self._left, CHUNK)))

    def _exactly(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) != count:
            raise ImageRefused("a layer is cut short: pull the image again")
        return data

    def _check_end(self) -> None:
        """Behind the archive stand zeros only: anything else would be in the layer's digest and in nobody's container."""
        while data := self._stream.read(CHUNK):
            if data.strip(b"\0"):
                raise ImageRefused("a layer goes on behind the end of its archive: build the image again")


def _check_global(records: dict[bytes, bytes]) -> None:
    """A header for all entries behind it may comment on them; some unpackers apply the rest of it and some do not."""
    if any(keyword in OVERRIDES or keyword.startswith(ADDITIONS) for keyword in records):
        raise ImageRefused(
            "a layer changes all its entries in one global header: build the image again without it"
        )
