"""NBD's numbers, and its messages as bytes: what a server of one read-only export says, and what it understands.

Protocol: the NBD project's `doc/proto.md`, newstyle, with structured replies and `base:allocation`. Big-endian
throughout. Knows neither a socket nor an image.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = [
    "ALLOCATION",
    "CLIENT_FLAGS",
    "GREETING",
    "MAX_NAME",
    "MAX_OPTION",
    "MAX_READ",
    "NO_ZEROES",
    "OPTION",
    "REQUEST",
    "REQ_ONE",
    "Command",
    "Export",
    "Malformed",
    "NbdError",
    "Option",
    "Reply",
    "Request",
    "block_status",
    "chosen_export",
    "context_reply",
    "export_information",
    "export_name_reply",
    "meta_queries",
    "option_header",
    "option_reply",
    "parse_request",
    "server_entry",
    "simple_reply",
    "structured_data",
    "structured_error",
]

MAX_READ: Final = 32 << 20  # bytes of one request: what clients may take for granted
MAX_OPTION: Final = 64 << 10  # bytes of one option
MAX_NAME: Final = 4096  # bytes of an export's name

ALLOCATION: Final = "base:allocation"
CONTEXT_ID: Final = 1

NO_ZEROES: Final = 1 << 1
CLIENT_FLAGS: Final = 1 << 0 | NO_ZEROES  # those that a client may set
REQ_ONE: Final = 1 << 3  # of a block status request: the first extent is enough

_OPTION_MAGIC: Final = b"IHAVEOPT"
_FIXED_NEWSTYLE: Final = 1 << 0
GREETING: Final = b"NBDMAGIC" + _OPTION_MAGIC + struct.pack(">H", _FIXED_NEWSTYLE | NO_ZEROES)

OPTION: Final = struct.Struct(">8sII")  # magic, option, length of its data
REQUEST: Final = struct.Struct(">IHHQQI")  # magic, flags, type, cookie, offset, length

_OPTION_REPLY_MAGIC: Final = 0x3E889045565A9
_REQUEST_MAGIC: Final = 0x25609513
_SIMPLE_MAGIC: Final = 0x67446698
_STRUCTURED_MAGIC: Final = 0x668E33EF

_HAS_FLAGS, _READ_ONLY, _SEND_DF, _MULTI_CONN = 1 << 0, 1 << 1, 1 << 7, 1 << 8
_DONE: Final = 1 << 0
_DATA, _BLOCK_STATUS, _ERROR = 1, 5, 1 << 15 | 1
_HOLE_AND_ZERO: Final = 1 << 0 | 1 << 1
_INFO_EXPORT, _INFO_NAME, _INFO_BLOCK_SIZE = 0, 1, 3


class Malformed(ValueError):
    """What a client sent is not of the protocol, or longer than a limit: the connection ends."""


class Option(enum.IntEnum):
    """What a client asks before it reads."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10


class Reply(enum.IntEnum):
    """What an option is answered with."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    UNSUPPORTED = 1 << 31 | 1
    INVALID = 1 << 31 | 3
    UNKNOWN = 1 << 31 | 6


class Command(enum.IntEnum):
    """What a client asks when it reads. Those that write are known only to be refused."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class NbdError(enum.IntEnum):
    """Errors as the protocol numbers them, on every system."""

    PERM = 1
    IO = 5
    INVAL = 22
    SHUTDOWN = 108


@dataclass(frozen=True, slots=True)
class Export:
    """What is served: its size in bytes, and its name; clients that name none get it too. `block`: what is best read at once."""

    size: int
    name: str = ""
    block: int = 4096


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came. `command` may be none that there is."""

    command: int
    flags: int
    cookie: int
    offset: int
    length: int


# --- before reading


def option_header(data: bytes) -> tuple[int, int]:
    """An option's number and the length of its data. Raises Malformed."""
    magic, option, length = OPTION.unpack(data)
    if magic != _OPTION_MAGIC or length > MAX_OPTION:
        raise Malformed("an option is none, or too long")
    return option, length


def option_reply(option: int, reply: Reply, data: bytes = b"") -> bytes:
    """One answer to an option."""
    return struct.pack(">QIII", _OPTION_REPLY_MAGIC, option, reply, len(data)) + data


def server_entry(export: Export) -> bytes:
    """The export as LIST tells it."""
    name = export.name.encode()
    return struct.pack(">I", len(name)) + name


def chosen_export(data: bytes) -> str:
    """Which export INFO or GO mean. Raises Malformed."""
    name, rest = _text(data)
    if len(rest) < 2 or len(rest) != 2 + 2 * struct.unpack_from(">H", rest)[0]:
        raise Malformed("a request for an export is shorter or longer than it says")
    return name


def export_information(export: Export, *, structured: bool) -> Iterable[bytes]:
    """All that INFO and GO tell of the export, whatever of it was asked for."""
    yield struct.pack(">HQH", _INFO_EXPORT, export.size, _flags(structured))
    yield struct.pack(">H", _INFO_NAME) + export.name.encode()
    yield struct.pack(">HIII", _INFO_BLOCK_SIZE, 1, export.block, MAX_READ)


def export_name_reply(export: Export, *, structured: bool, zeroes: bool) -> bytes:
    """What EXPORT_NAME is answered with; reading begins."""
    return struct.pack(">QH", export.size, _flags(structured)) + bytes(124 if zeroes else 0)


def meta_queries(data: bytes) -> tuple[str, list[str]]:
    """Which export, and what is asked about it. Raises Malformed."""
    name, rest = _text(data)
    if len(rest) < 4:
        raise Malformed("a question about contexts is shorter than it says")
    queries, (count,), rest = [], struct.unpack_from(">I", rest), rest[4:]
    while count and rest:
        query, rest = _text(rest)
        queries.append(query)
        count -= 1
    if count or rest:
        raise Malformed("a question about contexts is shorter or longer than it says")
    return name, queries


def context_reply(option: int) -> bytes:
    """Tells of the one context that there is."""
    return option_reply(option, Reply.META_CONTEXT, struct.pack(">I", CONTEXT_ID) + ALLOCATION.encode())


def _flags(structured: bool) -> int:
    return _HAS_FLAGS | _READ_ONLY | _MULTI_CONN | (_SEND_DF if structured else 0)


def _text(data: bytes) -> tuple[str, bytes]:
    if len(data) < 4:
        raise Malformed("a text is shorter than it says")
    (length,) = struct.unpack_from(">I", data)
    if length > MAX_NAME or len(data) < 4 + length:
        raise Malformed("a text is shorter than it says, or too long")
    return data[4 : 4 + length].decode("utf-8", "replace"), data[4 + length :]


# --- reading


def parse_request(data: bytes) -> Request:
    """A request from its header. Raises Malformed."""
    magic, flags, command, cookie, offset, length = REQUEST.unpack(data)
    if magic != _REQUEST_MAGIC:
        raise Malformed("a request is none")
    return Request(command, flags, cookie, offset, length)


def simple_reply(request: Request, error: int = 0, data: bytes = b"") -> bytes:
    """The answer to a client that asked for no other form."""
    return struct.pack(">IIQ", _SIMPLE_MAGIC, error, request.cookie) + data


def structured_data(request: Request, data: bytes) -> bytes:
    """All that was asked for, in one piece."""
    return _chunk(request, _DATA, struct.pack(">Q", request.offset) + data)


def structured_error(request: Request, error: NbdError) -> bytes:
    """An error instead of what was asked for. It has no text: the number says all that a reader shall know."""
    return _chunk(request, _ERROR, struct.pack(">IH", error, 0))


def block_status(request: Request, extents: Iterable[tuple[int, bool]]) -> bytes:
    """Lengths in bytes from the request's offset on, and whether each is zeros."""
    told = b"".join(struct.pack(">II", length, _HOLE_AND_ZERO if zero else 0) for length, zero in extents)
    return _chunk(request, _BLOCK_STATUS, struct.pack(">I", CONTEXT_ID) + told)


def _chunk(request: Request, kind: int, payload: bytes) -> bytes:
    return struct.pack(">IHHQI", _STRUCTURED_MAGIC, _DONE, kind, request.cookie, len(payload)) + payload
