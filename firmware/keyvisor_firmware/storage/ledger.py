"""The ledger: who holds which of the machine's storage, and how much is free. Pure, and the host's to see: it owns the
storage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from keyvisor_firmware.storage.host_storage import HostStorage
from keyvisor_firmware.storage.pages import Span

Use = Literal["zone base", "guest base", "guest variable", "cpu", "guest memory", "host"]


@dataclass(frozen=True, slots=True)
class HeldView:
    """Storage that is in use for one thing: `length` bytes in `pieces` ranges, the lowest at `first`.

    `holder` is a guest's name, `firmware`, or the label of what the host's allocator gave away.
    """

    holder: str
    use: Use
    secure: bool
    length: int
    pieces: int
    first: int


@dataclass(frozen=True, slots=True)
class LedgerView:
    """All lengths are bytes. `largest_free` is the longest piece that nobody has."""

    size: int
    initialised: bool
    secure: int
    free: int
    largest_free: int
    held: tuple[HeldView, ...]


@dataclass(frozen=True, slots=True)
class Donation:
    """An absolute donation: in the table those that touch one another are one range."""

    holder: str
    use: Use
    span: Span


@dataclass(frozen=True, slots=True)
class _Piece:
    holder: str
    use: Use
    secure: bool
    start: int
    end: int


def ledger(
    storage: HostStorage, donations: Iterable[Donation], guests: Mapping[int, str], *, initialised: bool
) -> LedgerView:
    """The ledger of this moment. `guests` are the names of the domains."""
    pieces = [
        *(_Piece(one.holder, one.use, True, one.span.start, one.span.end) for one in donations),
        *_virtual(storage, guests),
        *_reserved(storage),
    ]
    pieces.sort(key=lambda piece: piece.start)
    gaps = list(_gaps(pieces, storage.size))
    return LedgerView(
        size=storage.size,
        initialised=initialised,
        secure=storage.zone.secure_length,
        free=sum(gaps),
        largest_free=max(gaps, default=0),
        held=tuple(_lines(pieces)),
    )


def _virtual(storage: HostStorage, guests: Mapping[int, str]) -> Iterator[_Piece]:
    """Variable areas, and guests' own pages."""
    for one in storage.zone:
        if one.value.virtual is not None:
            use: Use = "guest variable" if one.value.firmware else "guest memory"
            yield _Piece(guests[one.value.domain], use, True, one.start, one.end)


def _reserved(storage: HostStorage) -> Iterator[_Piece]:
    """What the allocator gave away and nothing secure has taken."""
    for frame in storage.frames:
        at = frame.start
        for one in storage.zone.clipped(frame.start, frame.end):
            if at < one.start:
                yield _Piece(frame.value.text, "host", False, at, one.start)
            at = one.end
        if at < frame.end:
            yield _Piece(frame.value.text, "host", False, at, frame.end)


def _gaps(pieces: Iterable[_Piece], size: int) -> Iterator[int]:
    at = 0
    for piece in pieces:
        if at < piece.start:
            yield piece.start - at
        at = max(at, piece.end)
    if at < size:
        yield size - at


def _lines(pieces: Iterable[_Piece]) -> Iterator[HeldView]:
    lines: dict[tuple[str, Use], list[_Piece]] = {}
    for piece in pieces:
        lines.setdefault((piece.holder, piece.use), []).append(piece)
    for (holder, use), found in lines.items():
        yield HeldView(
            holder,
            use,
            found[0].secure,
            sum(piece.end - piece.start for piece in found),
            len(found),
            min(piece.start for piece in found),
        )
