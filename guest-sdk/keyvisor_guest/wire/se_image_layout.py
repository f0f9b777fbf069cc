"""Where everything stands in an image file: the record at c000h, the header, the IPIB, the components' pages.

The file is loaded at address 0 as a whole, so that an address in it is an offset of the file. Bounds are held before
anything is read. The record is that of formats, E; of the IPIB (the parameter block that names the components) the
layout is what QEMU reads (hw/s390x/ipl.h, IplParameterBlock and IPLBlockPV), big-endian, offsets from its start:

    00 u32 length of all            04 3 bytes 0        07 u8 version 1
    08 u32 length behind these 8    0c u8 type 5        0d 98 bytes 0    6f u8 version 1    70 u32 0
    74 u32 number of components     78 u64 header's address               80 u64 header's length
    88 per component: 8-byte tweak prefix, u64 address, u64 size (whole pages)

Neither record nor IPIB is authenticated: what they say is believed only because the measurement has to agree with it.
So every byte that no measurement covers must be zero, except where a loader (stage 3a) stands that keyvisor never runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from keyvisor_guest.wire.boot_identity import PAGE_LENGTH
from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.se_header import HEADER_MAGIC, MAX_HEADER, read_header_head
from keyvisor_guest.wire.se_pages import TWEAK_PREFIX_LENGTH, ComponentKind, Placement

__all__ = [
    "COMPONENTS_AT",
    "HEADER_AT",
    "IPIB_AT",
    "RECORD_AT",
    "Layout",
    "check_unmeasured",
    "encode_ipib",
    "encode_record",
    "find_header",
    "read_layout",
]

RECORD_AT: Final = 0xC000
HEADER_AT: Final = 0x14000
IPIB_AT: Final = 0x16000
COMPONENTS_AT: Final = 0x17000

_RECORD_MAGIC: Final = b"SeImgLnx"
_RECORD_VERSION: Final = 1
_RECORD_LENGTH: Final = 28
_SCANNED_PAGES: Final = 0x15  # as far as the tools look for a header without a record

_IPIB_HEAD_LENGTH: Final = 8
_IPIB_COMPONENTS_AT: Final = 0x88
_IPIB_VERSION: Final = 1
_IPIB_TYPE_PV: Final = 5
_COMPONENT_LENGTH: Final = 24

# A loader is there where the file begins with the short PSW that enters stage 3a, at 10000h.
_LOADER_PSW: Final = bytes.fromhex("0008000080010000")


@dataclass(frozen=True, slots=True)
class _Record:
    header_at: int
    ipib_at: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where header, IPIB and components stand. `components` ascend in address and in kind, and do not overlap."""

    header_at: int
    header_length: int
    ipib_at: int
    components: tuple[Placement, ...]

    @property
    def ipib_length(self) -> int:
        """The IPIB's length, bytes."""
        return _ipib_length(len(self.components))

    def regions(self) -> list[tuple[int, int]]:
        """First byte and end of everything that stands in the file, ascending."""
        return sorted(
            [
                (RECORD_AT, RECORD_AT + _RECORD_LENGTH),
                (self.header_at, self.header_at + self.header_length),
                (self.ipib_at, self.ipib_at + self.ipib_length),
                *((place.address, place.end) for place in self.components),
            ]
        )


def find_header(data: bytes) -> bytes:
    """The header's bytes in an image, or in a file that is a header alone. Raises Malformed where there is none.

    It is where the record says, else at the first of the file's leading pages that begins with its magic; it ends
    where it says so itself, at the file's end at the latest. What it says besides is not judged.
    """
    record = _find_record(data)
    at = _scan(data) if record is None else record.header_at
    if not data.startswith(HEADER_MAGIC, at):
        raise Malformed(f"no image header at {at:#x}, where the image says it is")
    head = read_header_head(data[at : at + MAX_HEADER])
    return data[at : at + min(head.total_length, MAX_HEADER)]


def read_layout(data: bytes, header_length: int) -> Layout:
    """Where everything stands. `header_length` is what the header says of itself. Raises Malformed, also for overlaps."""
    record = _find_record(data)
    if record is None:
        raise Malformed(f"no record `SeImgLnx` at {RECORD_AT:#x}: a header alone starts nothing")
    layout = _read_ipib(data, record, header_length)
    _check_order(layout.components)
    end = 0
    for start, stop in layout.regions():
        if start < end:
            raise Malformed(f"two parts of the image overlap at {start:#x}")
        end = stop
    if end > len(data):
        raise Malformed(f"the image ends at {len(data):#x}, its parts at {end:#x}")
    return layout


def check_unmeasured(data: bytes, layout: Layout) -> None:
    """Raises Malformed where a byte is not zero that is in no part of the image; a loader's bytes are let pass."""
    if data.startswith(_LOADER_PSW):
        return
    for start, end in _gaps(layout, len(data)):
        if data.count(0, start, end) != end - start:
            at = next(at for at in range(start, end) if data[at])
            raise Malformed(f"the byte at {at:#x} is measured by nothing, and is not zero")


def encode_record(header_at: int, ipib_at: int) -> bytes:
    """The record's 28 bytes."""
    return b"".join(
        (
            _RECORD_MAGIC,
            header_at.to_bytes(8, "big"),
            _RECORD_VERSION.to_bytes(4, "big"),
            ipib_at.to_bytes(8, "big"),
        )
    )


def encode_ipib(header_at: int, header_length: int, components: Sequence[Placement]) -> bytes:
    """The IPIB of these components."""
    length = _ipib_length(len(components))
    return b"".join(
        (
            length.to_bytes(4, "big") + bytes(3) + bytes([_IPIB_VERSION]),
            (length - _IPIB_HEAD_LENGTH).to_bytes(4, "big") + bytes([_IPIB_TYPE_PV]) + bytes(98),
            bytes([_IPIB_VERSION]) + bytes(4) + len(components).to_bytes(4, "big"),
            header_at.to_bytes(8, "big") + header_length.to_bytes(8, "big"),
            *(
                place.tweak_prefix + place.address.to_bytes(8, "big") + place.size.to_bytes(8, "big")
                for place in components
            ),
        )
    )


def _find_record(data: bytes) -> _Record | None:
    """None where there is no record. Raises Malformed for one that is cut off or of another version."""
    if not data.startswith(_RECORD_MAGIC, RECORD_AT):
        return None
    cursor = Cursor(data[RECORD_AT : RECORD_AT + _RECORD_LENGTH])
    cursor.take(len(_RECORD_MAGIC))
    header_at, version, ipib_at = cursor.number(8), cursor.number(4), cursor.number(8)
    if version != _RECORD_VERSION:
        raise Malformed(f"the image's record is of version {version:#x}, only {_RECORD_VERSION:#x} is known")
    if header_at >= len(data) or ipib_at >= len(data):
        raise Malformed("the image ends before the header or the IPIB that its record names")
    return _Record(header_at, ipib_at)


def _scan(data: bytes) -> int:
    pages = range(0, min(len(data), _SCANNED_PAGES * PAGE_LENGTH), PAGE_LENGTH)
    for at in pages:
        if data.startswith(HEADER_MAGIC, at):
            return at
    raise Malformed(
        "no image header: neither a record at c000h names one, nor does a leading page begin with `IBMSecEx`"
    )


def _read_ipib(data: bytes, record: _Record, header_length: int) -> Layout:
    cursor = Cursor(data[record.ipib_at : record.ipib_at + _ipib_length(len(ComponentKind))])
    length = cursor.number(4)
    cursor.reserved(3)
    version, behind, kind = cursor.number(1), cursor.number(4), cursor.number(1)
    cursor.reserved(98)
    pv_version = cursor.number(1)
    cursor.reserved(4)
    count, header_at, said_length = cursor.number(4), cursor.number(8), cursor.number(8)
    if (version, kind, pv_version) != (_IPIB_VERSION, _IPIB_TYPE_PV, _IPIB_VERSION):
        raise Malformed("the IPIB is not one of version 1 for a secure guest")
    if not 1 <= count <= len(ComponentKind):
        raise Malformed(f"an image has 1 to {len(ComponentKind)} components, not {count}")
    if (length, behind) != (_ipib_length(count), length - _IPIB_HEAD_LENGTH):
        raise Malformed(f"the IPIB's length {length} and its {count} components do not add up")
    if (header_at, said_length) != (record.header_at, header_length):
        raise Malformed("record, IPIB and header do not agree on where the header is")
    components = tuple(_take_component(cursor) for _ in range(count))
    if cursor.used_reserved:
        raise Malformed(f"the reserved field of the IPIB at {cursor.used_reserved[0]:#x} is not zero")
    return Layout(record.header_at, header_length, record.ipib_at, components)


def _take_component(cursor: Cursor) -> Placement:
    tweak_prefix, address, size = cursor.take(TWEAK_PREFIX_LENGTH), cursor.number(8), cursor.number(8)
    return Placement(address, size, tweak_prefix)


def _check_order(components: Sequence[Placement]) -> None:
    """A kind is there once; addresses and kinds ascend together."""
    last = -1
    for place in components:
        if place.kind not in ComponentKind.__members__.values():
            raise Malformed(f"a component of kind {place.kind:04x} is not known")
        if place.kind <= last:
            raise Malformed("the components' kinds do not ascend")
        if place.address % PAGE_LENGTH or place.size % PAGE_LENGTH or not place.size:
            raise Malformed(f"the component at {place.address:#x} is not made of whole pages")
        last = place.kind
    addresses = [place.address for place in components]
    if addresses != sorted(addresses):
        raise Malformed("the components' addresses do not ascend")


def _gaps(layout: Layout, length: int) -> Iterator[tuple[int, int]]:
    end = 0
    for start, stop in layout.regions():
        yield end, start
        end = stop
    yield end, length


def _ipib_length(count: int) -> int:
    return _IPIB_COMPONENTS_AT + _COMPONENT_LENGTH * count
