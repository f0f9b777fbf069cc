"""The kernel's FUSE protocol, as far as a read-only file system needs it: numbers, requests in, replies out.

Protocol: Linux `include/uapi/linux/fuse.h`, version 7.31. In the byte order of the machine. Knows no volume.
"""

from __future__ import annotations

import enum
import struct
import sys
from dataclasses import dataclass
from typing import Final

__all__ = [
    "BUFFER",
    "FOREVER",
    "MAX_READ",
    "ROOT_ID",
    "Attributes",
    "Call",
    "Malformed",
    "Request",
    "attributes_reply",
    "directory_entry",
    "entry_reply",
    "error_reply",
    "initial_reply",
    "missing_reply",
    "name_of",
    "opened_reply",
    "parse_call",
    "read_arguments",
    "reply",
    "size_reply",
    "statistics_reply",
    "unique_of",
    "xattr_arguments",
]

ROOT_ID: Final = 1  # of the first directory
BUFFER: Final = 132 << 10  # bytes for one request; the kernel wants room for what it could write
MAX_READ: Final = 1 << 20  # bytes of one reply
FOREVER: Final = 1 << 30  # seconds that the kernel may keep what it was told: nothing here ever changes

_MAJOR, _MINOR = 7, 31
_IN: Final = struct.Struct("=IIQQIIII")  # length, opcode, unique, node, user, group, process, padding
_OUT: Final = struct.Struct("=IiQ")  # length, error, unique
_INIT_IN: Final = struct.Struct("=IIII")  # major, minor, max_readahead, flags
_INIT_OUT: Final = struct.Struct("=IIIIHHIIHHI28x")
_ATTRIBUTES: Final = struct.Struct("=QQQQQQIIIIIIIIII")
_ENTRY: Final = struct.Struct(
    "=QQQQII"
)  # node, generation, seconds of name and attributes, nanoseconds of both
_READ: Final = struct.Struct("=QQIIQII")  # handle, offset, size, flags, lock owner, flags, padding
_DIRENT: Final = struct.Struct("=QQII")  # inode, offset of the next, length of the name, type

_ASYNC_READ, _PARALLEL_DIROPS, _MAX_PAGES, _CACHE_SYMLINKS = 1 << 0, 1 << 18, 1 << 22, 1 << 23
_WANTED: Final = _ASYNC_READ | _PARALLEL_DIROPS | _MAX_PAGES | _CACHE_SYMLINKS
_KEEP_CACHE, _CACHE_DIR = 1 << 1, 1 << 3
_LEAST_WRITE: Final = 4096  # nothing is written, and the kernel takes no less
_BLOCK: Final = 4096


class Call(enum.IntEnum):
    """What the kernel asks, as far as it is answered with more than "no such call"."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    READLINK = 5
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    GETXATTR = 22
    LISTXATTR = 23
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42


class Malformed(ValueError):
    """A request that is none: nobody but the kernel writes any, so this is an error of ours, or another kernel's protocol."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came; `call` may be none that is known here."""

    call: int
    unique: int
    node: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is told of a file. `mode` has the type's bits; `mtime` in nanoseconds since 1970; `blocks` of 512 bytes."""

    node: int
    mode: int
    size: int
    blocks: int
    mtime: int
    links: int
    device: int = 0


def parse_call(data: bytes) -> Request:
    """A request from its bytes. Raises Malformed."""
    if len(data) < _IN.size:
        raise Malformed("a request is shorter than its header")
    length, call, unique, node, *_ = _IN.unpack_from(data)
    if length != len(data):
        raise Malformed("a request is shorter or longer than it says")
    return Request(call, unique, node, data[_IN.size :])


def unique_of(data: bytes) -> int:
    """The number that a reply to this goes by, whatever else is in it; 0 where there is none."""
    return int.from_bytes(data[8:16], sys.byteorder)


def name_of(data: bytes) -> bytes:
    """The name in a LOOKUP. Raises Malformed."""
    name, end, rest = data.partition(b"\0")
    if not end or rest:
        raise Malformed("a name does not end where it should")
    return name


def read_arguments(data: bytes) -> tuple[int, int]:
    """Offset and size of a READ or READDIR. Raises Malformed."""
    if len(data) != _READ.size:
        raise Malformed("a read is shorter or longer than it should be")
    _, offset, size, *_ = _READ.unpack(data)
    return offset, size


def xattr_arguments(data: bytes) -> tuple[int, bytes]:
    """How much room there is for an answer, and what follows. Raises Malformed."""
    if len(data) < 8:
        raise Malformed("a question about attributes is too short")
    return struct.unpack_from("=I", data)[0], data[8:]


# --- replies


def reply(unique: int, data: bytes = b"") -> bytes:
    """A reply that all went well."""
    return _OUT.pack(_OUT.size + len(data), 0, unique) + data


def error_reply(unique: int, number: int) -> bytes:
    """A reply that it did not: `number` is the system's, and positive. No byte of data goes with it."""
    if number <= 0:
        raise ValueError("an error has a number above 0")
    return _OUT.pack(_OUT.size, -number, unique)


def initial_reply(unique: int, data: bytes) -> bytes:
    """What INIT is answered with. Raises Malformed for a kernel before 7.31 (Linux 5.4)."""
    if len(data) < _INIT_IN.size:
        raise Malformed("the first request is too short")
    major, minor, readahead, flags = _INIT_IN.unpack_from(data)
    if (major, minor) < (_MAJOR, _MINOR):
        raise Malformed("this kernel's FUSE is older than 7.31")
    if major > _MAJOR:  # it asks again with ours
        return reply(unique, _INIT_OUT.pack(_MAJOR, _MINOR, 0, 0, 0, 0, 0, 0, 0, 0, 0))
    told = (_MAJOR, _MINOR, readahead, flags & _WANTED, 16, 12, _LEAST_WRITE, 1, MAX_READ // _BLOCK, 0, 0)
    return reply(unique, _INIT_OUT.pack(*told))


def entry_reply(unique: int, found: Attributes) -> bytes:
    """A name that there is."""
    return reply(unique, _ENTRY.pack(found.node, 0, FOREVER, FOREVER, 0, 0) + _attributes(found))


def missing_reply(unique: int) -> bytes:
    """A name that there is not, and never will be."""
    nothing = Attributes(0, 0, 0, 0, 0, 0)
    return reply(unique, _ENTRY.pack(0, 0, FOREVER, 0, 0, 0) + _attributes(nothing))


def attributes_reply(unique: int, found: Attributes) -> bytes:
    """Attributes alone."""
    return reply(unique, struct.pack("=QII", FOREVER, 0, 0) + _attributes(found))


def opened_reply(unique: int, *, directory: bool) -> bytes:
    """An open file, whose content the kernel may keep."""
    return reply(unique, struct.pack("=QII", 0, _KEEP_CACHE | (_CACHE_DIR if directory else 0), 0))


def directory_entry(node: int, following: int, name: bytes, mode: int) -> bytes:
    """A name as READDIR tells it; `following` is the offset to go on from."""
    entry = _DIRENT.pack(node, following, len(name), mode >> 12) + name
    return entry + bytes(-len(entry) % 8)


def size_reply(unique: int, size: int) -> bytes:
    """How long an answer about attributes would be."""
    return reply(unique, struct.pack("=II", size, 0))


def statistics_reply(unique: int, blocks: int, inodes: int) -> bytes:
    """A file system with no room left."""
    return reply(unique, struct.pack("=QQQQQIIII24x", blocks, 0, 0, inodes, 0, _BLOCK, 255, _BLOCK, 0))


def _attributes(found: Attributes) -> bytes:
    """All belongs to the root of the mount's user namespace: one user stands for all of the image's."""
    seconds, nanoseconds = divmod(found.mtime, 1_000_000_000)
    times = (seconds % 2**64,) * 3 + (nanoseconds,) * 3
    owners = (0, 0)
    return _ATTRIBUTES.pack(
        *(found.node, found.size, found.blocks, *times),
        *(found.mode, found.links, *owners, found.device, _BLOCK, 0),
    )
