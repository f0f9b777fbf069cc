"""One run of a verified image, from its first file to nothing being left of it.

The image was opened before, so everything that speaks for all of it is verified. The order here: what its config says,
mounts of this process's own, the files, the sandbox, the end. Knows neither keys nor doors, except one socket's path.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keyvisor_guest.containers import private_mounts
from keyvisor_guest.containers.errors import ContainerError, Unservable
from keyvisor_guest.containers.ext4.reading import Node, VolumeReader
from keyvisor_guest.containers.oci.quoting import quoted
from keyvisor_guest.containers.reader import ImageReader
from keyvisor_guest.containers.running.process import process_of
from keyvisor_guest.containers.running.roots import Root, RootKind, make_directories, root_of
from keyvisor_guest.containers.running.sandbox import MOUNT_POINTS, Door, sandboxed
from keyvisor_guest.containers.running.supervising import Signals, check_bubblewrap, supervise

__all__ = ["RunOptions", "client_in", "run_container"]

_CLIENT: Final = b"p11-kit-client.so"
_LIBRARIES: Final = ((b"usr", b"lib"), (b"usr", b"lib64"), (b"usr", b"local", b"lib"))


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How it runs. `door`: the socket of a guest's PKCS#11 door, which the container gets at a place of its own."""

    root: RootKind = RootKind.AUTO
    door: Path | None = None
    network: bool = False


def run_container(
    reader: ImageReader,
    arguments: Sequence[str],
    options: RunOptions,
    signals: Signals,
    *,
    on_root: Callable[[Root], None] = lambda _root: None,
    on_refused: Callable[[ContainerError], None] = lambda _error: None,
) -> int:
    """Run the image; the exit code of its program. Takes the reader over. This process has one thread so far.

    Raises Unservable, ImageRefused, Unextractable, VolumeUnusable: then nothing of the image has run.
    """
    check_bubblewrap()
    volume = VolumeReader(reader.read_at)
    process = process_of(reader.config, volume, arguments)
    missing = _missing(volume, process.directory)
    door = None if options.door is None else Door(options.door, client_in(volume))
    with (
        _private_place() as place,
        root_of(reader, options.root, place, on_refused=on_refused) as root,
    ):
        make_directories(root.path, (*MOUNT_POINTS, *missing))
        on_root(root)
        return supervise(sandboxed(root.path, process, door, network=options.network), signals)


def client_in(volume: VolumeReader) -> str | None:
    """Where the image has the stock PKCS#11 client; None where it has none."""
    for library in _LIBRARIES:
        below = [child.path[-1] for child in _children(volume, library) if child.inode.is_directory]
        for path in ((*library, b"pkcs11", _CLIENT), *((*library, one, b"pkcs11", _CLIENT) for one in below)):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
                volume.find(path)
                return "/" + b"/".join(path).decode()
    return None


def _children(volume: VolumeReader, path: tuple[bytes, ...]) -> list[Node]:
    try:
        return volume.children(volume.find(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _missing(volume: VolumeReader, directory: str) -> tuple[str, ...]:
    """The working directory, where the image has none at that place. Raises Unservable where something else is there."""
    path = directory.strip("/")
    try:
        found = volume.find(tuple(path.encode("utf-8", "surrogateescape").split(b"/")))
    except FileNotFoundError:
        return (path,)
    except NotADirectoryError:
        found = None
    if found is None or not found.inode.is_directory:
        raise Unservable(
            f"the config's `WorkingDir` {quoted(directory)} is no directory: build the image again"
        )
    return ()


@contextmanager
def _private_place() -> Iterator[Path]:
    """An empty directory in memory that only this process and its children see; gone afterwards, whatever happens."""
    private_mounts.enter()
    with tempfile.TemporaryDirectory(prefix="keyvisor-run-") as name:
        place = Path(name)
        private_mounts.mount_tmpfs(place)
        try:
            yield place
        finally:
            private_mounts.unmount(place)
