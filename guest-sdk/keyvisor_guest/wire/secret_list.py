"""The list of secrets as bytes: the page that one ultravisor call fills, and what the device makes of several (formats, C.3).

A page of 4096 bytes, all numbers big-endian:

    off  len   field
    00   2     entries in this page
    02   2     total in the store
    04   2     next start index; 0 at the end of the list
    06   10    zero
    10   48·n  entries, n <= 85: u16 index, u16 type, u32 length, u64 zero, id (32)

The device gives one header, counting the entries of all its calls, and then all entries back to back. Knows no secret's
value: a list has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import Malformed, Unbuildable
from keyvisor_guest.wire.secret_ids import ID_LENGTH, SecretId

__all__ = [
    "EXECUTED",
    "MORE_DATA",
    "PAGE_ENTRIES",
    "PAGE_LENGTH",
    "ListEntry",
    "Page",
    "SecretList",
    "decode_list",
    "encode_list",
    "encode_page",
    "read_pages",
]

PAGE_LENGTH: Final = 4096
PAGE_ENTRIES: Final = 85
HEADER_LENGTH: Final = 16
ENTRY_LENGTH: Final = 48
MAX_LISTED: Final = 0xFFFF  # the header's counts are u16

EXECUTED: Final = 0x0001
MORE_DATA: Final = 0x0100

_RESERVED_IN_HEADER: Final = 10
_RESERVED_IN_ENTRY: Final = 8


@dataclass(frozen=True, slots=True)
class ListEntry:
    """What a list shows of a secret. `kind` is a number, because a list may name kinds that this release does not know."""

    index: int
    kind: int
    length: int
    id: SecretId

    def encode(self) -> bytes:
        """48 bytes."""
        head = self.index.to_bytes(2, "big") + self.kind.to_bytes(2, "big") + self.length.to_bytes(4, "big")
        return head + bytes(_RESERVED_IN_ENTRY) + self.id


@dataclass(frozen=True, slots=True)
class Page:
    """What one call answers: `rc` EXECUTED or MORE_DATA, and the page's 4096 bytes."""

    rc: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SecretList:
    """A list as it was read. `total` is what the store holds, which may be more; `next` where to go on, 0 at the end."""

    entries: tuple[ListEntry, ...]
    total: int
    next: int = 0


def encode_page(entries: Sequence[ListEntry], start: int) -> Page:
    """One page of the list `entries` (all that the store holds, in order), from index `start` on. Raises Unbuildable."""
    _require_countable(entries)
    shown = entries[start : start + PAGE_ENTRIES]
    after = start + len(shown)
    more = after < len(entries)
    data = _header(len(shown), len(entries), after if more else 0) + b"".join(each.encode() for each in shown)
    return Page(MORE_DATA if more else EXECUTED, data.ljust(PAGE_LENGTH, b"\x00"))


def encode_list(entries: Sequence[ListEntry]) -> bytes:
    """One header and all entries, as a file has them. Raises Unbuildable."""
    _require_countable(entries)
    return _header(len(entries), len(entries), 0) + b"".join(each.encode() for each in entries)


def decode_list(data: bytes) -> SecretList:
    """What `encode_list`, `read_pages` or a page holds; zeros may follow the entries. Raises Malformed."""
    cursor = Cursor(data)
    count, total, following = cursor.number(2), cursor.number(2), cursor.number(2)
    cursor.reserved(_RESERVED_IN_HEADER)
    if count > total:
        raise Malformed(f"the list has {count} entries of a store with {total}")
    entries = tuple(_entry(cursor) for _ in range(count))
    cursor.reserved(cursor.left)
    if cursor.used_reserved:
        raise Malformed(f"the reserved field at {cursor.used_reserved[0]:#x} is not zero")
    return SecretList(entries, total, following)


def read_pages(call: Callable[[int], Page], room: int) -> bytes:
    """What the device answers with `room` bytes, which are whole pages: `call` is asked again from the "next" index.

    That goes on while more remain and a page fits behind what is written. Raises Malformed where "next" does not
    advance: a reader that trusts it would never end.
    """
    if room % PAGE_LENGTH or not room:
        raise ValueError(f"the device takes whole pages of {PAGE_LENGTH} bytes, not {room} bytes")
    entries: list[bytes] = []
    total = start = written = 0
    while written + PAGE_LENGTH <= room:
        page = call(start)
        found = decode_list(page.data)
        entries += [each.encode() for each in found.entries]
        written = HEADER_LENGTH + len(entries) * ENTRY_LENGTH
        total, before, start = found.total, start, found.next
        if page.rc != MORE_DATA:
            break
        if start <= before:
            raise Malformed(f"the list goes on at index {start} after {before}")
    return (_header(len(entries), total, start) + b"".join(entries)).ljust(room, b"\x00")


def _header(count: int, total: int, following: int) -> bytes:
    numbers = b"".join(number.to_bytes(2, "big") for number in (count, total, following))
    return numbers + bytes(_RESERVED_IN_HEADER)


def _entry(cursor: Cursor) -> ListEntry:
    index, kind, length = cursor.number(2), cursor.number(2), cursor.number(4)
    cursor.reserved(_RESERVED_IN_ENTRY)
    return ListEntry(index, kind, length, SecretId(cursor.take(ID_LENGTH)))


def _require_countable(entries: Sequence[ListEntry]) -> None:
    if len(entries) > MAX_LISTED:
        raise Unbuildable(f"a list tells of at most {MAX_LISTED} secrets, not {len(entries)}")
