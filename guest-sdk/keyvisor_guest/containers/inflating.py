"""A layer's bytes as they come out of gzip (of several members too), zstd or no compression, counted while they do.

Trusts no size that is written anywhere: each piece is held against the limits before the next is inflated. Knows no tar.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from keyvisor_guest.containers.budget import Budget
from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.zstd_frames import ZstdInflater

__all__ = ["InflatedStream"]

_PIECE = 256 << 10
_TAKEN = 64 << 10  # small, since what a gzip member leaves over is copied once per member
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = tuple(bytes([0x50 + number, 0x2A, 0x4D, 0x18]) for number in range(16))
_GZIP_WITH_HEADER = 31  # wbits: a window of 32 KiB and a gzip header


class InflatedStream:
    """What a layer's blob inflates to, read forwards.

    `blob` gives compressed or plain bytes through `read`; which of the three it is, the first bytes say. Raises
    ImageRefused for what does not inflate, is cut short, or is beyond the limits of `budget`.
    """

    def __init__(self, blob: BinaryIO, budget: Budget) -> None:
        self._blob = blob
        self._budget = budget
        self._digest = hashlib.sha256()
        self._taken = 0
        self._given = 0
        self._ready = b""
        self._pieces = self._inflate()

    def read(self, count: int) -> bytes:
        """`count` bytes, or fewer at the end."""
        if len(self._ready) >= count:
            found, self._ready = self._ready[:count], self._ready[count:]
            return found
        parts = [self._ready]
        missing = count - len(self._ready)
        self._ready = b""
        while missing and (piece := next(self._pieces, b"")):
            parts.append(piece[:missing])
            self._ready = piece[missing:]
            missing -= len(parts[-1])
        return b"".join(parts)

    def diff_id(self) -> str:
        """The digest of everything inflated, for the config's `rootfs.diff_ids`: meant for when all is read."""
        return f"sha256:{self._digest.hexdigest()}"

    def _inflate(self) -> Iterator[bytes]:
        first = self._take()
        if first.startswith(_GZIP):
            pieces = self._gzip(first)
        elif first.startswith((_ZSTD, *_ZSTD_SKIPPABLE)):
            pieces = self._zstd(first)
        else:
            pieces = self._plain(first)
        for piece in pieces:
            self._count(len(piece))
            self._digest.update(piece)
            yield piece

    def _take(self) -> bytes:
        data = self._blob.read(_TAKEN)
        self._taken += len(data)
        return data

    def _count(self, inflated: int) -> None:
        self._given += inflated
        self._budget.take_bytes(inflated)
        limits = self._budget.limits
        if self._given > limits.ratio_from and self._given > limits.ratio * self._taken:
            raise ImageRefused(
                f"a layer inflates to more than {limits.ratio} times its size: it looks like a bomb; "
                "allow a higher ratio if the image is trusted",
                Refusal.LIMIT,
            )

    def _plain(self, first: bytes) -> Iterator[bytes]:
        while first:
            yield first
            first = self._take()

    def _gzip(self, data: bytes) -> Iterator[bytes]:
        """Members one behind the other (RFC 1952, 2.2); zeros behind the last are padding, as gzip itself has it."""
        while data:
            member = zlib.decompressobj(_GZIP_WITH_HEADER)
            while not member.eof:
                if not data and not (data := self._take()):
                    raise ImageRefused("a gzip layer is cut short: pull the image again")
                try:
                    piece = member.decompress(data, _PIECE)
                except zlib.error as error:
                    raise ImageRefused(
                        f"a layer is no gzip stream ({error}): pull the image again"
                    ) from error
                data = member.unconsumed_tail
                if piece:
                    yield piece
            data = self._past_padding(member.unused_data)

    def _past_padding(self, data: bytes) -> bytes:
        data = (data or self._take()).lstrip(b"\0")
        while not data and (more := self._take()):
            data = more.lstrip(b"\0")
        return data

    def _zstd(self, data: bytes) -> Iterator[bytes]:
        inflater = ZstdInflater(self._budget.limits.zstd_window_log, _PIECE)
        try:
            while data:
                inflater.feed(data)
                # A full piece can leave more inside that needs no further input.
                while (piece := inflater.take()) or not inflater.hungry:
                    if piece:
                        yield piece
                data = self._take()
            if not inflater.finished:
                raise ImageRefused("a zstd layer is cut short: pull the image again")
        finally:
            inflater.close()
