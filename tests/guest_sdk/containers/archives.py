"""Layers as tests write them: entries by hand, or as a tar archive from Python's own writer, which is not ours."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

from keyvisor_guest.containers.budget import Budget
from keyvisor_guest.containers.ext4.reading import VolumeReader
from keyvisor_guest.containers.limits import DEFAULT_LIMITS, Limits
from keyvisor_guest.containers.tar_layers import Entry, Kind, LayerReader

ACL = bytes.fromhex(
    "02000000 01000600ffffffff 0200040005000000 04000400ffffffff 10000600ffffffff 20000400ffffffff"
)


def parts(path: str | bytes) -> tuple[bytes, ...]:
    raw = path if isinstance(path, bytes) else os.fsencode(path)
    return tuple(part for part in raw.split(b"/") if part)


def a_file(path: str | bytes, data: bytes = b"", mode: int = 0o644, **rest: object) -> Entry:
    pieces = iter([data[start : start + 8192] for start in range(0, len(data), 8192)])
    return Entry(path=parts(path), kind=Kind.FILE, mode=mode, size=len(data), data=pieces, **rest)  # type: ignore[arg-type]


def an_entry(path: str | bytes, kind: Kind, mode: int = 0o755, **rest: object) -> Entry:
    return Entry(path=parts(path), kind=kind, mode=mode, **rest)  # type: ignore[arg-type]


def a_link(path: str, target: str) -> Entry:
    return Entry(path=parts(path), kind=Kind.HARD_LINK, target=parts(target))


def archive(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar archive of these members."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=form) as tar:
        for info, data in members:
            info.size = len(data) or info.size
            tar.addfile(info, io.BytesIO(data))
    return whole.getvalue()


def member(
    name: str, data: bytes = b"", flag: bytes = tarfile.REGTYPE, **rest: object
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = flag
    for field, value in rest.items():
        setattr(info, field, value)
    return info, data


def entries_of(blob: bytes, limits: Limits = DEFAULT_LIMITS) -> list[tuple[Entry, bytes]]:
    """What our reader makes of a layer, each entry with its data."""
    return [(entry, b"".join(entry.data)) for entry in LayerReader(io.BytesIO(blob), Budget(limits))]


def read_at(path: Path) -> Callable[[int, int], bytes]:
    data = path.read_bytes()
    return lambda offset, length: data[offset : offset + length]


def reader(path: Path) -> VolumeReader:
    return VolumeReader(read_at(path))


def names(path: Path) -> list[bytes]:
    return [b"/".join(node.path) for node in reader(path).walk()][1:]
