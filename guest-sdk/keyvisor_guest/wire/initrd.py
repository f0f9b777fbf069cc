"""Ramdisks: a guest's file tree as a cpio archive (newc), written the same each time and read strictly.

Pure: entries in, bytes out and back. A ramdisk that is no archive has no file tree; one that begins like an archive
must be one from its start to its end, so that nobody hides a file behind it. Reads gzip too; what another program
compressed cannot be looked into, and is refused rather than taken for a ramdisk without a policy.
"""

from __future__ import annotations

import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import Malformed, Unbuildable

__all__ = [
    "GUEST_FILE",
    "MAX_ENTRIES",
    "MAX_TREE",
    "POLICY_PATHS",
    "Entry",
    "find_guest_file",
    "find_policy",
    "pack",
    "unpack",
]

MAX_TREE: Final = 1 << 27  # bytes of an archive, unpacked
MAX_ENTRIES: Final = 1 << 16
MAX_PATH: Final = 4096  # bytes, with the NUL
POLICY_PATHS: Final = ("etc/keyvisor/policy.yaml", "etc/pvapconfig.yaml")  # the first that is there counts
GUEST_FILE: Final = "etc/keyvisor/guest.yaml"

_MAGIC: Final = b"070701"
_TRAILER: Final = "TRAILER!!!"
_FIELDS: Final = 13
_ALIGNMENT: Final = 4
_HEX_8: Final = re.compile(rb"[0-9A-Fa-f]{8}")
_GZIP: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 31  # zlib's number for: with a gzip header
_OTHERS: Final = {
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\x5d\x00\x00": "lzma",
    b"\x02\x21\x4c\x18": "lz4",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x89LZO\x00": "lzop",
    b"070702": "cpio with checksums",
    b"070707": "old cpio",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a tree: its path without a leading slash, its mode with the type, its content (a link's target)."""

    path: str
    mode: int
    content: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class _Head:
    mode: int
    links: int
    size: int
    name_size: int


def pack(entries: Iterable[Entry]) -> bytes:
    """The archive of the entries, in the order of their paths; same entries, same bytes. Raises Unbuildable.

    Owner, group and times are zero. Directories that have no entry get one (0755), before what is in them.
    """
    tree = _with_directories(entries)
    if len(tree) > MAX_ENTRIES:
        raise Unbuildable(f"a file tree has at most {MAX_ENTRIES} entries, not {len(tree)}")
    total = sum(len(entry.content) for entry in tree.values())
    if total > MAX_TREE:
        raise Unbuildable(f"a file tree has at most {MAX_TREE} bytes, not {total}")
    ordered = [tree[path] for path in sorted(tree, key=_key)]
    records = [_encode(number, entry) for number, entry in enumerate(ordered, start=1)]
    return b"".join((*records, _encode(0, Entry(_TRAILER, 0))))


def unpack(data: bytes) -> tuple[Entry, ...] | None:
    """The entries of an archive, in its order; None for a ramdisk that is none. Raises Malformed.

    Refused are paths out of the tree or twice, entries below what is no directory, and anything behind the archive.
    """
    plain = _plain(data)
    _check_begin(plain)
    if not plain.startswith(_MAGIC):
        return None
    kinds: dict[str, bool] = {}
    entries = []
    for entry in _read(plain):
        _check_place(entry, kinds)
        entries.append(entry)
        if len(entries) > MAX_ENTRIES:
            raise Malformed(f"the ramdisk's archive has more than {MAX_ENTRIES} entries")
    return tuple(entries)


def find_policy(entries: Iterable[Entry]) -> Entry | None:
    """The policy in a file tree: the first of POLICY_PATHS that is there. Raises Malformed for one that is no file."""
    return _first(entries, POLICY_PATHS, "policy")


def find_guest_file(entries: Iterable[Entry]) -> Entry | None:
    """The file that says how the guest is opened, if it is there. Raises Malformed for one that is no file."""
    return _first(entries, (GUEST_FILE,), "guest's file")


def _first(entries: Iterable[Entry], paths: Sequence[str], what: str) -> Entry | None:
    tree = {entry.path: entry for entry in entries}
    for path in paths:
        for parent in _parents(path):
            if parent in tree and not stat.S_ISDIR(tree[parent].mode):
                raise Malformed(f"`/{parent}` in the ramdisk is no directory: a {what} would be below it")
        if (found := tree.get(path)) is not None:
            if not stat.S_ISREG(found.mode):
                raise Malformed(f"`/{path}` in the ramdisk is no regular file: put the {what} itself there")
            return found
    return None


def _check_begin(data: bytes) -> None:
    """Raises Malformed for an archive behind zeros: a kernel skips them and unpacks it."""
    if data.startswith(b"\x00") and data.lstrip(b"\x00").startswith((_MAGIC, _GZIP, *_OTHERS)):
        raise Malformed("zeros stand before the ramdisk's archive: let it begin with the archive")


def _plain(data: bytes) -> bytes:
    for magic, name in _OTHERS.items():
        if data.startswith(magic):
            raise Malformed(f"the ramdisk is packed with {name}: pack it as cpio (newc), plain or with gzip")
    if not data.startswith(_GZIP):
        return data
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        plain = unpacker.decompress(data, MAX_TREE)
    except zlib.error as error:
        raise Malformed("the ramdisk begins like gzip and is none") from error
    if unpacker.unconsumed_tail:
        raise Malformed(f"the ramdisk unpacks to more than {MAX_TREE} bytes")
    if not unpacker.eof:
        raise Malformed("the ramdisk's gzip ends too early")
    if any(unpacker.unused_data):
        raise Malformed("more follows the ramdisk's gzip: pack the tree as one archive")
    return plain


def _read(data: bytes) -> Iterator[Entry]:
    cursor = Cursor(data)
    while True:
        head = _take_head(cursor)
        if not 2 <= head.name_size <= MAX_PATH:
            raise Malformed(f"a path in the ramdisk has {head.name_size} bytes, 2 to {MAX_PATH} with its NUL")
        name = _path(cursor.take(head.name_size))
        _align(cursor, len(data))
        if name == _TRAILER:
            break
        content = cursor.take(head.size)
        _align(cursor, len(data))
        if stat.S_ISREG(head.mode) and head.links > 1 and not content:
            # The content of such a file stands with another of its names.
            raise Malformed(f"`/{name}` in the ramdisk is a hard link: pack the tree without")
        yield Entry(name, head.mode, content)
    if head.size or data.count(0, len(data) - cursor.left) != cursor.left:
        raise Malformed("more follows the ramdisk's archive: pack the tree as one archive")


def _take_head(cursor: Cursor) -> _Head:
    magic = cursor.take(len(_MAGIC))
    if magic != _MAGIC:
        raise Malformed("the ramdisk's archive breaks off: an entry does not begin with 070701")
    fields = [cursor.take(8) for _ in range(_FIELDS)]
    if not all(_HEX_8.fullmatch(one) for one in fields):
        raise Malformed("a field in the ramdisk's archive is no number of 8 hex digits")
    numbers = [int(one, 16) for one in fields]
    return _Head(mode=numbers[1], links=numbers[4], size=numbers[6], name_size=numbers[11])


def _align(cursor: Cursor, length: int) -> None:
    cursor.take(-(length - cursor.left) % _ALIGNMENT)


def _path(raw: bytes) -> str:
    """The path as it is in the tree; `.` for its root. Raises Malformed for one that leads out of it."""
    name, nul, more = raw.partition(b"\x00")
    try:
        path = name.decode()
    except UnicodeDecodeError as error:
        raise Malformed("a path in the ramdisk is not UTF-8") from error
    if not nul or more or not path.isprintable():
        raise Malformed("a path in the ramdisk has control characters")
    path = path.removeprefix("./")
    if path.startswith("/") or ".." in path.split("/") or (path != "." and not _normal(path)):
        raise Malformed(
            f"the path `{path}` in the ramdisk leads out of its tree, or is written in a second way"
        )
    return path


def _normal(path: str) -> bool:
    return all(part not in ("", ".", "..") for part in path.split("/"))


def _check_place(entry: Entry, kinds: dict[str, bool]) -> None:
    """`kinds` says of each path so far whether it is a directory."""
    if entry.path in kinds:
        raise Malformed(f"`/{entry.path}` is in the ramdisk twice")
    for parent in _parents(entry.path):
        if not kinds.get(parent, True):
            raise Malformed(f"`/{entry.path}` in the ramdisk is below what is no directory")
    kinds[entry.path] = stat.S_ISDIR(entry.mode)


def _with_directories(entries: Iterable[Entry]) -> dict[str, Entry]:
    tree: dict[str, Entry] = {}
    for entry in entries:
        _check_packable(entry)
        if entry.path in tree:
            raise Unbuildable(f"`{entry.path}` is in the file tree twice")
        tree[entry.path] = entry
    for path in tuple(tree):
        for parent in _parents(path):
            if not stat.S_ISDIR(tree.setdefault(parent, Entry(parent, stat.S_IFDIR | 0o755)).mode):
                raise Unbuildable(f"`{path}` is below `{parent}`, which is no directory")
    return tree


def _check_packable(entry: Entry) -> None:
    if not _normal(entry.path) or not entry.path.isprintable() or entry.path == _TRAILER:
        raise Unbuildable(f"`{entry.path!r}` is no path of a file tree: give another name")
    if len(entry.path.encode()) >= MAX_PATH:
        raise Unbuildable(f"a path of a file tree has at most {MAX_PATH - 1} bytes")
    if not (stat.S_ISREG(entry.mode) or stat.S_ISDIR(entry.mode) or stat.S_ISLNK(entry.mode)):
        raise Unbuildable(f"`{entry.path}` is no file, directory or link: take it out of the file tree")


def _parents(path: str) -> list[str]:
    """The directories above a path, the highest first."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _key(path: str) -> list[bytes]:
    return [part.encode() for part in path.split("/")]


def _encode(number: int, entry: Entry) -> bytes:
    name = entry.path.encode() + b"\x00"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
    head = _MAGIC + b"".join(b"%08X" % value for value in fields) + name
    return _padded(head) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)
