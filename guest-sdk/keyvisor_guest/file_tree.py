"""A directory as the entries of a ramdisk: read once, nothing followed, up to limits. Knows no archive's bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from keyvisor_guest.wire.errors import Unbuildable
from keyvisor_guest.wire.initrd import MAX_ENTRIES, MAX_TREE, Entry

__all__ = ["read_tree"]


def read_tree(root: Path) -> tuple[Entry, ...]:
    """Everything below `root`, in the order of the paths; links stay links. Raises Unbuildable, OSError.

    Files, directories and links only: what else is there is refused, and so is more than a ramdisk may hold.
    """
    entries: list[Entry] = []
    total = 0
    for path in _walk(root):
        entry = _entry(root, path)
        total += len(entry.content)
        entries.append(entry)
        if total > MAX_TREE or len(entries) > MAX_ENTRIES:
            raise Unbuildable(
                f"`{root}` is too much for a ramdisk: {MAX_TREE} bytes and {MAX_ENTRIES} entries at most"
            )
    return tuple(entries)


def _walk(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _entry(root: Path, path: Path) -> Entry:
    name = str(path.relative_to(root))
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return Entry(name, mode, os.fsencode(path.readlink()))
    if stat.S_ISDIR(mode):
        return Entry(name, mode)
    if not stat.S_ISREG(mode):
        raise Unbuildable(f"`{path}` is no file, directory or link: take it out of the file tree")
    with path.open("rb") as file:
        return Entry(name, mode, file.read(MAX_TREE + 1))
