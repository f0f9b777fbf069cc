"""A container's files, in a directory of this run's own: blocks as they are asked for, or all of them first.

`FUSE`: the kernel asks us for what it needs of the volume (`fuse`), with its overlay above for what is written. A block that
is not as it was built is an I/O error to whoever reads it. `EXTRACT`: every file is verified and laid out in memory
before anything starts; the image and its key are closed then. Either is gone with this process's mounts.
"""

from __future__ import annotations

import contextlib
import enum
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keyvisor_guest.containers import private_mounts
from keyvisor_guest.containers.errors import ContainerError, Unservable
from keyvisor_guest.containers.ext4.reading import VolumeReader
from keyvisor_guest.containers.extracting import extract
from keyvisor_guest.containers.fuse.answers import VolumeAnswers
from keyvisor_guest.containers.fuse.server import DEVICE, FuseServer
from keyvisor_guest.containers.oci.quoting import quoted
from keyvisor_guest.containers.reader import ImageReader

__all__ = ["Root", "RootKind", "fuse_is_missing", "make_directories", "root_of"]

_OPENED: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class RootKind(enum.StrEnum):
    """How a container gets its files."""

    AUTO = "auto"  # FUSE where it works, else EXTRACT
    FUSE = "fuse"
    EXTRACT = "extract"


@dataclass(frozen=True, slots=True)
class Root:
    """A root that a container may write to. `kind` is the one that was taken, `reason` why not the other, if it was `auto`."""

    path: Path
    kind: RootKind
    reason: str | None = None


def fuse_is_missing(device: Path = DEVICE) -> str | None:
    """What is missing for FUSE on this machine; None where nothing is."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"`{device}` cannot be opened ({(error.strerror or '').lower()})"
    return None


@contextmanager
def root_of(
    reader: ImageReader,
    kind: RootKind,
    place: Path,
    *,
    on_refused: Callable[[ContainerError], None] = lambda _error: None,
) -> Iterator[Root]:
    """The image's files below `place`, an empty directory on a tmpfs among this process's own mounts.

    Takes the reader over: with EXTRACT it is closed when the files are there. `on_refused` is told, by other threads, of
    blocks that were refused later. Raises Unservable, Unextractable, ImageRefused, VolumeUnusable.
    """
    missing = None if kind is RootKind.EXTRACT else fuse_is_missing()
    if kind is RootKind.FUSE and missing is not None:
        raise Unservable(f"no FUSE here: {missing}; `--files extract` goes without")
    with ExitStack() as undo:
        root = None
        if kind is not RootKind.EXTRACT and missing is None:
            try:
                root = Root(_mounted(reader, place, on_refused, undo), RootKind.FUSE)
            except Unservable as error:
                if kind is RootKind.FUSE:
                    raise
                missing = str(error)
                undo.close()
        if root is None:
            root = Root(_extracted(reader, place), RootKind.EXTRACT, missing)
        yield root


def make_directories(root: Path, paths: Sequence[str]) -> None:
    """Directories of the root, made where they are missing, by names only. Raises Unservable for a link or a file in the way."""
    for path in paths:
        with ExitStack() as undo:
            descriptor = _open(undo, os.fspath(root), None)
            for part in path.split("/"):
                try:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=descriptor)
                    descriptor = _open(undo, part, descriptor)
                except OSError as error:
                    raise Unservable(
                        f"{quoted('/' + path)} of the image cannot be a directory of the container's own"
                        f" ({(error.strerror or '').lower()}): build the image with a directory there"
                    ) from error


def _open(undo: ExitStack, path: str, parent: int | None) -> int:
    descriptor = os.open(path, _OPENED, dir_fd=parent)
    undo.callback(os.close, descriptor)
    return descriptor


def _extracted(reader: ImageReader, place: Path) -> Path:
    path = place / "files"
    path.mkdir(mode=0o700)
    with ExitStack() as undo:
        directory = _open(undo, os.fspath(path), None)
        extract(VolumeReader(reader.read_at), directory)
    reader.close()
    return path


def _mounted(
    reader: ImageReader, place: Path, on_refused: Callable[[ContainerError], None], undo: ExitStack
) -> Path:
    lower, upper, work, root = (place / name for name in ("lower", "upper", "work", "root"))
    for one in (lower, upper, work, root):
        one.mkdir(mode=0o700)
    answers = VolumeAnswers(VolumeReader(reader.read_at), on_refused)
    undo.enter_context(FuseServer(answers, lower))
    try:
        shutil.copymode(lower, upper)
    except OSError as error:
        raise Unservable(
            f"this kernel does not take our FUSE ({(error.strerror or '').lower()}): `--files extract` goes without"
        ) from error
    private_mounts.mount_overlay(lower, upper, work, root)
    undo.callback(private_mounts.unmount, root)
    return root
