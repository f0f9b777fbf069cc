"""A container's files, in a directory of this run's own: blocks as they are asked for, or all of them first.

`FUSE`: `nbdfuse` and `fuse2fs` read the volume through our NBD server, with the kernel's overlay above for what is written. A
block that is not as it was built is an I/O error to whoever reads it. `EXTRACT`: every file is verified and laid out in memory
before anything starts; the image and its key are closed then. Either is gone with this process's mounts.
"""

from __future__ import annotations

import contextlib
import enum
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keyvisor_guest.containers.errors import ContainerError, Unservable
from keyvisor_guest.containers.ext4.reading import VolumeReader
from keyvisor_guest.containers.extracting import extract
from keyvisor_guest.containers.nbd_server import NbdServer, served_image
from keyvisor_guest.containers.oci.quoting import quoted
from keyvisor_guest.containers.reader import ImageReader
from keyvisor_guest.containers.running import private_mounts

__all__ = ["Root", "RootKind", "fuse_is_missing", "make_directories", "root_of"]

_PROGRAMS: Final = {"nbdfuse": "libnbd-bin", "fuse2fs": "fuse2fs", "setpriv": "util-linux"}
_DEVICE: Final = Path("/dev/fuse")
_PATIENCE: Final = 30.0  # seconds, for a mount
_END: Final = 5.0  # seconds, for a program to end when it is asked to
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


def fuse_is_missing(device: Path = _DEVICE) -> str | None:
    """What is missing for FUSE on this machine; None where nothing is."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"`{device}` cannot be opened ({(error.strerror or '').lower()})"
    for name, package in _PROGRAMS.items():
        if shutil.which(name) is None:
            return f"`{name}` is not installed: it comes with the package `{package}`"
    return None


@contextmanager
def root_of(
    reader: ImageReader,
    kind: RootKind,
    place: Path,
    *,
    on_refused: Callable[[ContainerError], None] = lambda _error: None,
    progress: Callable[[int], None] = lambda _bytes: None,
) -> Iterator[Root]:
    """The image's files below `place`, an empty directory on a tmpfs among this process's own mounts.

    Takes the reader over: with EXTRACT it is closed when the files are there. `on_refused` is told, by other threads, of
    blocks that were refused later. Raises Unservable, Unextractable, ImageRefused, VolumeUnusable.
    """
    missing = None if kind is RootKind.EXTRACT else fuse_is_missing()
    if kind is RootKind.FUSE and missing is not None:
        raise Unservable(f"no FUSE here: {missing}; `--files extract` goes without")
    if kind is RootKind.EXTRACT or missing is not None:
        yield Root(_extracted(reader, place, progress), RootKind.EXTRACT, missing)
        return
    with ExitStack() as undo:
        path = _mounted(reader, place, on_refused, undo)
        yield Root(path, RootKind.FUSE)


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


def _extracted(reader: ImageReader, place: Path, progress: Callable[[int], None]) -> Path:
    path = place / "root"
    path.mkdir(mode=0o700)
    with ExitStack() as undo:
        directory = _open(undo, os.fspath(path), None)
        extract(VolumeReader(reader.read_at), directory, progress=progress)
    reader.close()
    return path


def _mounted(
    reader: ImageReader, place: Path, on_refused: Callable[[ContainerError], None], undo: ExitStack
) -> Path:
    volume, lower, upper, work, root = (place / name for name in ("volume", "lower", "upper", "work", "root"))
    for one in (volume, lower, upper, work, root):
        one.mkdir(mode=0o700)
    socket = place / "nbd"
    undo.enter_context(NbdServer(served_image(reader), socket, on_refused=on_refused))
    _serve(undo, ["nbdfuse", "--readonly", str(volume), "--unix", str(socket)], volume)
    # All files are this process's user's, as they are when they are extracted: one user stands for all of the image's.
    options = "ro,fakeroot,uid=0,gid=0"
    _serve(undo, ["fuse2fs", "-f", "-o", options, str(volume / "nbd"), str(lower)], lower)
    shutil.copymode(lower, upper)
    private_mounts.mount_overlay(lower, upper, work, root)
    undo.callback(private_mounts.unmount, root)
    return root


def _serve(undo: ExitStack, command: Sequence[str], place: Path) -> None:
    """Run a FUSE server until `undo`; it does not live on without this process. Returns when it has mounted."""
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", *command], stdin=quiet, stdout=quiet, stderr=quiet, process_group=0
    )
    undo.callback(_end, server)
    undo.callback(private_mounts.unmount, place)
    if not private_mounts.wait_for_mount(place, server.pid, _PATIENCE):
        raise Unservable(f"`{command[0]}` did not mount the image: `--files extract` goes without it")


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_END)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
