"""A volume's tree laid out in a directory: the files of a container, for a place that no mount can have.

Every name is made relative to a directory that was opened before, none is followed, and what exists is never opened: so
no symlink of the image leads anywhere while it comes out. What gives power is left out unless it is asked for: device
nodes, set-id bits, owners. Directories get their modes when all is in them. Knows no keys: the reader has verified.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from keyvisor_guest.containers.errors import Unextractable
from keyvisor_guest.containers.ext4.reading import Node, VolumeReader
from keyvisor_guest.containers.names import shown

__all__ = ["ExtractOptions", "Extracted", "extract"]

_DEEPEST: Final = 512  # directories, each open while what is below it is made
_NOBODY: Final = 0xFFFFFFFF  # as an owner it means to the system "as it is"
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_MADE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPENED: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What the file system or the user cannot have, and a value that the kernel does not take: left out, and counted.
_NO_ATTRIBUTE: Final = (errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EINVAL)


@dataclass(frozen=True, slots=True)
class ExtractOptions:
    """What comes out beside files, directories, links, fifos, permissions and times.

    `owners`: users, groups, ACLs and trusted attributes, which takes root. `set_id`: set-id bits and `security.*`, file
    capabilities among them. `devices`: device nodes, which takes root.
    """

    owners: bool = False
    set_id: bool = False
    devices: bool = False


@dataclass(slots=True)
class Extracted:
    """How many came out, and how many of what was left out."""

    files: int = 0
    directories: int = 0
    symlinks: int = 0
    hard_links: int = 0
    others: int = 0  # fifos, and devices where they are asked for
    bytes: int = 0  # written: holes are not
    devices_left: int = 0
    set_ids_left: int = 0
    attributes_left: int = 0


def extract(
    volume: VolumeReader,
    directory: int,
    options: ExtractOptions = ExtractOptions(),
    start: Node | None = None,
    progress: Callable[[int], None] = lambda _bytes: None,
) -> Extracted:
    """Lay out the volume's tree, or what is below `start`, in the empty directory that is open as `directory`.

    `progress` is told how many bytes were written so far. Raises Unextractable where the directory is not empty, a name
    leads out or the system refuses; ImageRefused and VolumeUnusable as the volume does. No file is left whose content did
    not come whole.
    """
    if os.listdir(directory):
        raise Unextractable("the directory to extract to is not empty: name a new one")
    with contextlib.ExitStack() as undo:
        work = _Extraction(volume, directory, options, len(start.path) if start else 0, progress)
        undo.callback(work.close)
        for node in volume.walk(start):
            with _told(node):
                work.add(node)
        work.finish()
    return work.found


@dataclass(frozen=True, slots=True)
class _Open:
    """A directory that is being filled."""

    node: Node
    descriptor: int


class _Extraction:
    """The directories from the first to the current one, and files that have more names."""

    def __init__(
        self,
        volume: VolumeReader,
        directory: int,
        options: ExtractOptions,
        skipped: int,
        progress: Callable[[int], None],
    ) -> None:
        self.found: Final = Extracted()
        self._volume = volume
        self._options = options
        self._skipped = skipped  # parts of each path that lie above the first directory
        self._progress = progress
        self._first = directory
        self._stack: list[_Open] = []
        self._links: dict[int, tuple[bytes, ...]] = {}
        self._narrow: list[tuple[tuple[bytes, ...], int]] = []

    def add(self, node: Node) -> None:
        """The next node of the walk."""
        path = node.path[self._skipped :]
        if not self._stack:
            if not node.inode.is_directory:
                raise Unextractable(f"{shown(node.path)} is no directory: name one")
            self._stack.append(_Open(node, os.open(b".", _OPENED, dir_fd=self._first)))
            self.found.directories += 1
            return
        self._leave(len(path) - 1)
        parent, name = self._stack[-1].descriptor, path[-1]
        if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
            raise Unextractable(
                f"{shown(node.path)} ends in no name that a file can have: build the image again"
            )
        if node.inode.is_directory:
            self._directory(parent, name, node)
        elif node.number in self._links:
            self._hard_link(parent, name, node)
        elif self._other(parent, name, node) and node.inode.links > 1:
            self._links[node.number] = path

    def finish(self) -> None:
        """Leave all directories, then take the owner's own access from those that have none: nothing is made any more."""
        self._leave(-1)
        for path, mode in self._narrow:
            with self._reached(path) as descriptor:
                os.fchmod(descriptor, mode)

    def close(self) -> None:
        """Let go of all directories."""
        while self._stack:
            os.close(self._stack.pop().descriptor)

    def _leave(self, depth: int) -> None:
        """Describe and leave the directories below `depth`, innermost first; the first one is at 0."""
        while len(self._stack) > depth + 1:
            left = self._stack[-1]
            mode = self._mode(left.node)
            if mode & stat.S_IRWXU != stat.S_IRWXU:
                # What else gets a name in here, or is linked from here, has to pass: who is not root could not.
                self._narrow.append((left.node.path[self._skipped :], mode))
                mode |= stat.S_IRWXU
            with _told(left.node):
                self._describe(left.descriptor, left.node, mode)
            self._stack.pop()
            os.close(left.descriptor)

    def _directory(self, parent: int, name: bytes, node: Node) -> None:
        if len(self._stack) >= _DEEPEST:
            raise Unextractable(
                f"is deeper than {_DEEPEST} directories: extract a directory above it by itself"
            )
        os.mkdir(name, 0o700, dir_fd=parent)
        self._stack.append(_Open(node, os.open(name, _OPENED, dir_fd=parent)))
        self.found.directories += 1

    def _hard_link(self, parent: int, name: bytes, node: Node) -> None:
        first = self._links[node.number]
        with self._reached(first[:-1]) as descriptor:
            os.link(first[-1], name, src_dir_fd=descriptor, dst_dir_fd=parent, follow_symlinks=False)
        self.found.hard_links += 1

    def _other(self, parent: int, name: bytes, node: Node) -> bool:
        """Whether it was made."""
        mode = node.inode.mode
        if stat.S_ISREG(mode):
            self._file(parent, name, node)
        elif stat.S_ISLNK(mode):
            os.symlink(self._volume.read_link(node), name, dir_fd=parent)
            self._describe_name(parent, name, node)
            self.found.symlinks += 1
        elif stat.S_ISFIFO(mode):
            os.mkfifo(name, 0o600, dir_fd=parent)
            self._describe_name(parent, name, node)
            self.found.others += 1
        elif self._options.devices and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
            os.mknod(name, stat.S_IFMT(mode) | 0o600, os.makedev(*node.inode.device), dir_fd=parent)
            self._describe_name(parent, name, node)
            self.found.others += 1
        else:
            self.found.devices_left += 1
            return False
        return True

    def _file(self, parent: int, name: bytes, node: Node) -> None:
        descriptor = os.open(name, _MADE, 0o600, dir_fd=parent)
        try:
            os.ftruncate(descriptor, node.inode.size)
            for offset, piece in self._volume.written(node):
                _write(descriptor, piece, offset)
                self.found.bytes += len(piece)
                self._progress(self.found.bytes)
            self._describe(descriptor, node, self._mode(node))
        except BaseException:
            os.unlink(name, dir_fd=parent)
            raise
        finally:
            os.close(descriptor)
        self.found.files += 1

    def _mode(self, node: Node) -> int:
        mode = stat.S_IMODE(node.inode.mode)
        if not self._options.set_id and mode & _SET_ID:
            self.found.set_ids_left += 1
            mode &= ~_SET_ID
        return mode

    def _describe(self, descriptor: int, node: Node, mode: int) -> None:
        """Owner, attributes, mode and time, in this order: each takes away what the one before it would have."""
        if self._options.owners:
            os.fchown(descriptor, *_owners(node))
        for name, value in self._volume.xattrs(node).items():
            self._attribute(descriptor, name, value)
        os.fchmod(descriptor, mode)
        os.utime(descriptor, ns=(node.inode.mtime, node.inode.mtime))

    def _describe_name(self, parent: int, name: bytes, node: Node) -> None:
        """The same for what is not opened. Its attributes stay out: the system takes them by a path only."""
        self.found.attributes_left += len(self._volume.xattrs(node))
        if self._options.owners:
            os.chown(name, *_owners(node), dir_fd=parent, follow_symlinks=False)
        if not node.inode.is_symlink:
            os.chmod(name, self._mode(node), dir_fd=parent)
        times = (node.inode.mtime, node.inode.mtime)
        os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)

    def _attribute(self, descriptor: int, name: bytes, value: bytes) -> None:
        if name.startswith(b"user."):
            wanted = True
        else:
            wanted = self._options.set_id if name.startswith(b"security.") else self._options.owners
        if wanted:
            try:
                os.setxattr(descriptor, name, value)
            except OSError as error:
                if error.errno not in _NO_ATTRIBUTE:
                    raise
            else:
                return
        self.found.attributes_left += 1

    @contextlib.contextmanager
    def _reached(self, path: tuple[bytes, ...]) -> Iterator[int]:
        """A directory that was made before, name by name from the first one."""
        descriptor = os.open(b".", _OPENED, dir_fd=self._first)
        try:
            for name in path:
                below = os.open(name, _OPENED, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)


def _owners(node: Node) -> tuple[int, int]:
    if _NOBODY in (node.inode.uid, node.inode.gid):
        raise Unextractable(f"{shown(node.path)} has an owner that no system has: extract without owners")
    return node.inode.uid, node.inode.gid


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


@contextlib.contextmanager
def _told(node: Node) -> Iterator[None]:
    """What goes wrong, with the path in the image at which it did."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise Unextractable(
            f"{shown(node.path)} could not be made ({reason}): what came out until then is there"
        ) from error
