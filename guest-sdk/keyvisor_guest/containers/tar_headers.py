"""One header of a tar archive, and the extended records before it (POSIX pax, ustar; GNU long names and base 256).

Bytes in, fields out; names stay bytes. Knows no paths, no layers and no streams.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from keyvisor_guest.containers.errors import ImageRefused

__all__ = ["BLOCK", "Header", "TypeFlag", "parse_header", "parse_records", "parse_time"]

BLOCK: Final = 512
_CHECKSUM = slice(148, 156)
_USTAR = b"ustar\0"
_RECORD = re.compile(rb"([1-9][0-9]{0,7}) ([^=\0\n]+)=")


class TypeFlag(Enum):
    """The entries that a layer may have. What is not listed (sparse maps, volumes, dumps) no unpacker of layers needs."""

    FILE = b"0"
    OLD_FILE = b"\0"
    CONTIGUOUS = b"7"
    HARD_LINK = b"1"
    SYMLINK = b"2"
    CHARACTER_DEVICE = b"3"
    BLOCK_DEVICE = b"4"
    DIRECTORY = b"5"
    FIFO = b"6"
    EXTENDED = b"x"
    GLOBAL = b"g"
    GNU_LONG_NAME = b"L"
    GNU_LONG_LINK = b"K"


@dataclass(frozen=True, slots=True)
class Header:
    """A header block as it stands, before records override it. `mtime` in whole seconds since 1970."""

    flag: TypeFlag
    name: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    major: int
    minor: int


def parse_header(block: bytes) -> Header | None:
    """A header of 512 bytes; None for the zeros that end an archive. Raises ImageRefused."""
    if not block.strip(b"\0"):
        return None
    if _number(block[_CHECKSUM], "checksum") not in _checksums(block):
        raise ImageRefused("a layer is no tar archive, or a header in it is damaged: pull the image again")
    try:
        flag = TypeFlag(block[156:157])
    except ValueError:
        raise ImageRefused(
            f"a layer has a tar entry of type {block[156:157]!r}: build the image with a tool that writes "
            "only files, links, devices and directories"
        ) from None
    name = _text(block[:100])
    if block[257:263] == _USTAR and (prefix := _text(block[345:500])):
        name = prefix + b"/" + name
    device = flag in (TypeFlag.CHARACTER_DEVICE, TypeFlag.BLOCK_DEVICE)
    return Header(
        flag=flag,
        name=name,
        link=_text(block[157:257]),
        mode=_number(block[100:108], "mode"),
        uid=_number(block[108:116], "uid"),
        gid=_number(block[116:124], "gid"),
        size=_not_negative(_number(block[124:136], "size")),
        mtime=_number(block[136:148], "mtime"),
        major=_number(block[329:337], "device") if device else 0,
        minor=_number(block[337:345], "device") if device else 0,
    )


def parse_records(data: bytes) -> dict[bytes, bytes]:
    """The records of a pax header, each `LENGTH KEYWORD=VALUE\\n`; the last one counts, and an empty one says nothing.

    Raises ImageRefused.
    """
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        found = _RECORD.match(data, position)
        end = position + int(found[1]) if found else 0
        if found is None or found.end() >= end or end > len(data) or data[end - 1 : end] != b"\n":
            raise ImageRefused("a pax header in a layer is malformed: build the image again")
        records[found[2]] = data[found.end() : end - 1]
        position = end
    return {keyword: value for keyword, value in records.items() if value}


def parse_time(text: bytes) -> int:
    """Nanoseconds since 1970 of a pax time such as `-1.5`; what is below a nanosecond is cut off. Raises ImageRefused."""
    found = re.fullmatch(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?", text)
    if found is None:
        raise ImageRefused("a time in a layer is no decimal number: build the image again")
    fraction = int((found[3] or b"")[:9].ljust(9, b"0"))
    whole = int(found[2]) * 1_000_000_000 + fraction
    return -whole if found[1] else whole


def _checksums(block: bytes) -> Iterator[int]:
    """The sum of the header's bytes with blanks for itself; then what old archivers took for it, with signs."""
    unsigned = sum(block) - sum(block[_CHECKSUM]) + 8 * 0x20
    yield unsigned
    yield unsigned - 256 * sum(byte > 127 for byte in block[:148] + block[156:])


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes, what: str) -> int:
    """An octal number, or a big-endian one in base 256 whose first byte is 80h (positive) or FFh (negative; GNU)."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big") - (0 if field[0] == 0x80 else 1 << 8 * (len(field) - 1))
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    if re.fullmatch(rb"[0-7]+", digits) is None:
        raise ImageRefused(f"a tar header in a layer has a {what} that is no number: build the image again")
    return int(digits, 8)


def _not_negative(size: int) -> int:
    if size < 0:
        raise ImageRefused("a tar header in a layer has a negative size: build the image again")
    return size
