"""One sealed value in an area of whole pages, wherever these lie: u32 length, big-endian, the sealed bytes, zeros.

An area is the spans of its pages in order: one for a donation in one piece, many for scattered pages. Nothing is
written beyond the pages that the value needs, so that a large area with a small content costs little. Knows no key:
whoever seals and unseals is elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from keyvisor_firmware.errors import RecordBroken, StateUnusable
from keyvisor_firmware.storage.pages import PAGE, Span, whole_pages

SEAL_OVERHEAD: Final = 28  # a nonce of 12 bytes before what is sealed, a tag of 16 behind it

_PREFIX: Final = 4


@dataclass(frozen=True, slots=True)
class Scattered:
    """`pages`: the content (4096 bytes) of every page that is used, by address. `rest`: the pages behind, to be dropped."""

    pages: Mapping[int, bytes] = field(repr=False)
    rest: tuple[Span, ...]


def area_length(plain: int) -> int:
    """Bytes of the area that a value of `plain` bytes needs once it is sealed, in whole pages."""
    return whole_pages(_PREFIX + SEAL_OVERHEAD + plain)


def scatter(sealed: bytes, spans: Sequence[Span]) -> Scattered:
    """Lay a sealed value out over the area's `spans` (whole pages each). Raises StateUnusable where it does not fit."""
    content = len(sealed).to_bytes(_PREFIX, "big") + sealed
    used = whole_pages(len(content))
    content = content.ljust(used, b"\x00")
    room = sum(span.length for span in spans)
    if used > room:
        raise StateUnusable(
            f"a sealed value needs {used} bytes, and its area has {room}; "
            "stop the guest, and start it with what the storage query tells now"
        )
    addresses = (address for span in _cut(spans, 0, used) for address in range(span.start, span.end, PAGE))
    pages = {address: content[at * PAGE : (at + 1) * PAGE] for at, address in enumerate(addresses)}
    return Scattered(pages, tuple(_cut(spans, used, room)))


def gather(spans: Sequence[Span], read: Callable[[Span], bytes]) -> bytes:
    """The sealed value that was laid out over `spans`; empty where none ever was. `read` gives a span's bytes.

    Only the pages that are needed are read. Raises RecordBroken for a length that cannot be.
    """
    room = sum(span.length for span in spans)
    head = b"".join(map(read, _cut(spans, 0, min(PAGE, room))))
    length = int.from_bytes(head[:_PREFIX], "big")
    if len(head) != PAGE or 0 < length <= SEAL_OVERHEAD or _PREFIX + length > room:
        raise RecordBroken(f"an area of {room} bytes holds no sealed value of {length}")
    content = head + b"".join(map(read, _cut(spans, PAGE, whole_pages(_PREFIX + length))))
    return content[_PREFIX : _PREFIX + length]


def _cut(spans: Sequence[Span], start: int, end: int) -> Iterator[Span]:
    """The parts of the area from byte `start` to byte `end` of it."""
    at = 0
    for span in spans:
        first, last = max(start - at, 0), min(end - at, span.length)
        if first < last:
            yield Span(span.start + first, last - first)
        at += span.length
