"""One entry of a layer: what a tar header and its records mean (OCI image-spec, layer.md).

Paths come out as parts that have no `.`, `..`, NUL or empty part in them, and whiteouts as entries of their own. Knows
no volume: whether a parent is there, or what a hard link points at, whoever applies the entries finds out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.limits import Limits
from keyvisor_guest.containers.names import shown
from keyvisor_guest.containers.tar_headers import (
    Header,
    TypeFlag,
    parse_time,
)

__all__ = ["ADDITIONS", "OVERRIDES", "Entry", "EntryPath", "Kind", "entry_of", "path_of"]

EntryPath = tuple[bytes, ...]

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_XATTR = b"SCHILY.xattr."
# What Linux keeps; names of other systems (com.apple.*) have no place in an ext4 volume, and no unpacker keeps them.
_XATTR_PREFIXES = (b"user.", b"trusted.", b"security.")
_XATTR_NAMES = (b"system.posix_acl_access", b"system.posix_acl_default")
_REFUSED_RECORDS = {
    b"GNU.sparse.": "is a sparse file in GNU's form: write it whole, zeros become holes in the volume",
    b"SCHILY.acl.": "has its ACL as text: build the image with a tool that writes ACLs as extended attributes",
}
# Records that say something else of an entry than its header does, or something more.
OVERRIDES = (b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime")
ADDITIONS = (_XATTR, *_REFUSED_RECORDS)


class Kind(Enum):
    """What an entry makes of its path."""

    FILE = "file"
    HARD_LINK = "hard link"
    SYMLINK = "symlink"
    CHARACTER_DEVICE = "character device"
    BLOCK_DEVICE = "block device"
    DIRECTORY = "directory"
    FIFO = "fifo"
    WHITEOUT = "whiteout"  # the path of lower layers goes
    OPAQUE = "opaque"  # what lower layers have in the directory goes


_KINDS = {
    TypeFlag.FILE: Kind.FILE,
    TypeFlag.OLD_FILE: Kind.FILE,
    TypeFlag.CONTIGUOUS: Kind.FILE,
    TypeFlag.HARD_LINK: Kind.HARD_LINK,
    TypeFlag.SYMLINK: Kind.SYMLINK,
    TypeFlag.CHARACTER_DEVICE: Kind.CHARACTER_DEVICE,
    TypeFlag.BLOCK_DEVICE: Kind.BLOCK_DEVICE,
    TypeFlag.DIRECTORY: Kind.DIRECTORY,
    TypeFlag.FIFO: Kind.FIFO,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `path` is () for the root; `link` is the target of a symlink as it stands, and `target` that of a hard link.

    `mode` has permission bits with set-id and sticky (07777); `mtime` is in nanoseconds since 1970; `data` gives `size`
    bytes in pieces that are multiples of 4096 but for the last, and is good until the next entry is asked for.
    """

    path: EntryPath
    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    link: bytes = b""
    target: EntryPath = ()
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    data: Iterator[bytes] = field(default=iter(()), compare=False, repr=False)


def path_of(name: bytes, limits: Limits) -> EntryPath:
    """The parts of a name in a tar archive, which is meant from the root of the volume. Raises ImageRefused."""
    if len(name) > limits.path or b"\0" in name:
        raise ImageRefused(
            f"the name {shown(name)} is longer than {limits.path} bytes or has a NUL: rename the file",
            Refusal.LIMIT,
        )
    parts = tuple(part for part in name.split(b"/") if part not in (b"", b"."))
    if b".." in parts:
        raise ImageRefused(
            f"the name {shown(name)} leads upwards with `..`: build the image again without it"
        )
    if len(parts) > limits.path_depth:
        raise ImageRefused(
            f"the name {shown(name)} is deeper than {limits.path_depth} directories: move it up",
            Refusal.LIMIT,
        )
    if any(len(part) > limits.name for part in parts):
        raise ImageRefused(
            f"the name {shown(name)} has a part of more than {limits.name} bytes: rename the file",
            Refusal.LIMIT,
        )
    return parts


def entry_of(
    header: Header, records: dict[bytes, bytes], limits: Limits, data: Callable[[int], Iterator[bytes]]
) -> Entry:
    """The entry that a header and its records describe; `data` gives the bytes that stand behind it. Raises ImageRefused."""
    name = records.get(b"path") or header.name
    _check_records(name, records)
    size = _whole(records, b"size", header.size)
    kind = _KINDS[header.flag]
    if kind is Kind.FILE and name.endswith(b"/"):  # how a directory was written before ustar
        kind = Kind.DIRECTORY
    pieces = data(size)
    if size and kind is not Kind.FILE:
        raise ImageRefused(f"{shown(name)} is a {kind.value} that has data: build the image again")
    path, kind = _whiteout(path_of(name, limits), kind)
    if not path and kind not in (Kind.DIRECTORY, Kind.OPAQUE):
        raise ImageRefused(f"the root directory comes as a {kind.value}: build the image again")
    link = records.get(b"linkpath") or header.link
    return Entry(
        path=path,
        kind=kind,
        mode=0o777 if kind is Kind.SYMLINK else header.mode & 0o7777,  # Linux has no symlink of another mode
        uid=_owner(name, _whole(records, b"uid", header.uid)),
        gid=_owner(name, _whole(records, b"gid", header.gid)),
        mtime=parse_time(records[b"mtime"]) if records.get(b"mtime") else header.mtime * 1_000_000_000,
        size=size,
        link=_symlink(name, link, limits) if kind is Kind.SYMLINK else b"",
        target=path_of(link, limits) if kind is Kind.HARD_LINK else (),
        device=_device(name, header),
        xattrs=_xattrs(name, records, limits),
        data=pieces,
    )


def _whiteout(path: EntryPath, kind: Kind) -> tuple[EntryPath, Kind]:
    """A name that begins with `.wh.` is no file of the image but says what is gone (layer.md, Whiteouts)."""
    if any(part.startswith(_WHITEOUT) for part in path[:-1]):
        raise ImageRefused(f"{shown(b'/'.join(path))} has a whiteout for a parent: build the image again")
    if not path or not path[-1].startswith(_WHITEOUT):
        return path, kind
    if kind is not Kind.FILE and kind is not Kind.HARD_LINK:
        raise ImageRefused(f"the whiteout {shown(b'/'.join(path))} is a {kind.value}: build the image again")
    if path[-1] == _OPAQUE:
        return path[:-1], Kind.OPAQUE
    hidden = path[-1].removeprefix(_WHITEOUT)
    if hidden in (b"", b".", b"..") or hidden.startswith(_WHITEOUT):
        raise ImageRefused(
            f"the whiteout {shown(b'/'.join(path))} names nothing that can be deleted: build the image again"
        )
    return (*path[:-1], hidden), Kind.WHITEOUT


def _check_records(name: bytes, records: dict[bytes, bytes]) -> None:
    for keyword in records:
        for prefix, reason in _REFUSED_RECORDS.items():
            if keyword.startswith(prefix):
                raise ImageRefused(f"{shown(name)} {reason}")


def _whole(records: dict[bytes, bytes], keyword: bytes, otherwise: int) -> int:
    text = records.get(keyword)
    if not text:
        return otherwise
    if not (text.isdigit() and len(text) <= 19):
        raise ImageRefused(f"a {keyword.decode()} in a layer is no number: build the image again")
    return int(text)


def _owner(name: bytes, number: int) -> int:
    if not 0 <= number < 2**32 - 1:  # the last one is the kernel's `no owner`
        raise ImageRefused(
            f"{shown(name)} has the owner {number}, which no user or group can be: build the image again"
        )
    return number


def _device(name: bytes, header: Header) -> tuple[int, int]:
    if not (0 <= header.major < 1 << 12 and 0 <= header.minor < 1 << 20):
        raise ImageRefused(
            f"{shown(name)} has a device number that Linux does not know: build the image again"
        )
    return header.major, header.minor


def _symlink(name: bytes, target: bytes, limits: Limits) -> bytes:
    if not 0 < len(target) <= limits.path or b"\0" in target:
        raise ImageRefused(
            f"the symlink {shown(name)} has a target that is empty, has a NUL or is longer than {limits.path} bytes: "
            "build the image again"
        )
    return target


def _xattrs(name: bytes, records: dict[bytes, bytes], limits: Limits) -> tuple[tuple[bytes, bytes], ...]:
    found = []
    for keyword, value in records.items():
        key = keyword.removeprefix(_XATTR)
        if key == keyword or not (key.startswith(_XATTR_PREFIXES) or key in _XATTR_NAMES):
            continue
        if not 0 < len(key.partition(b".")[2]) <= limits.name or len(value) > limits.xattr:
            raise ImageRefused(
                f"{shown(name)} has an extended attribute with no name, or of more than {limits.xattr} bytes: leave it out",
                Refusal.LIMIT,
            )
        found.append((key, value))
    return tuple(sorted(found))
