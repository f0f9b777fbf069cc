"""Files of secrets, placed below one root: all are written before any is in its place, each with its mode at once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from keyvisor_guest.errors import SdkError

__all__ = ["Placement", "place"]


@dataclass(frozen=True, slots=True)
class Placement:
    """One file: where below the root, its permission bits, its content."""

    path: PurePosixPath
    mode: int
    content: bytes = field(repr=False)


def place(root: Path, placements: Sequence[Placement]) -> tuple[Path, ...]:
    """Write all files; those that are there already are replaced. Raises SdkError, OSError.

    Then none was, but where a whole file cannot be put in its place: those before it were.

    Directories on the way are made with mode 0700. A symbolic link on the way is refused: what it leads to may be
    anybody's.
    """
    root = root.resolve()
    targets = [root / placement.path for placement in placements]
    with ExitStack() as staged:
        ready: list[tuple[Path, Path]] = []
        for placement, target in zip(placements, targets, strict=True):
            _make_way(root, placement.path)
            temporary = _stage(target.parent, placement)
            staged.callback(temporary.unlink, missing_ok=True)
            ready.append((temporary, target))
        for temporary, target in ready:
            temporary.replace(target)
    return tuple(targets)


def _make_way(root: Path, path: PurePosixPath) -> None:
    at = root
    for part in path.parts[:-1]:
        at = at / part
        if at.is_symlink():
            raise SdkError(f"`{at}` is a symbolic link: secrets are placed in directories only")
        at.mkdir(mode=0o700, exist_ok=True)
    if (root / path).is_dir():
        raise SdkError(f"`{root / path}` is a directory: give the secret another path")


def _stage(directory: Path, placement: Placement) -> Path:
    """A file in the directory with the content; mkstemp makes it 0600, and wider only once all is in it."""
    descriptor, name = tempfile.mkstemp(dir=directory, prefix=".keyvisor-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(placement.content)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), placement.mode)
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)
