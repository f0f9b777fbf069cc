"""What the kernel is answered about a volume: a request's bytes in, a reply's bytes out.

A node's number is its inode's in the volume, so that nothing has to be remembered for the kernel. A block that is not as it was
built is EIO to whoever reads it, and so is a volume that is damaged: an error's reply has no room for bytes. Attributes that
would give power, or that mean something to an overlay above, are not told. Answers are of any thread.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeVar

from keyvisor_guest.containers.errors import ContainerError
from keyvisor_guest.containers.ext4.inodes import ROOT
from keyvisor_guest.containers.ext4.reading import Node, VolumeReader
from keyvisor_guest.containers.fuse import protocol as fuse
from keyvisor_guest.containers.fuse.protocol import Attributes, Call, Request

__all__ = ["VolumeAnswers"]

Kept = TypeVar("Kept")

_KEPT_NODES: Final = 8192
_KEPT_DIRECTORIES: Final = 256
_TOLD: Final = b"user."
_NOT_TOLD: Final = b"user.overlay."  # an overlay above would act on them


class VolumeAnswers:
    """See the module. `on_refused` is told of each read that was refused, by the thread that answers."""

    def __init__(
        self, volume: VolumeReader, on_refused: Callable[[ContainerError], None] = lambda _error: None
    ) -> None:
        self._volume = volume
        self._on_refused = on_refused
        self._lock = threading.Lock()
        self._nodes: OrderedDict[int, Node] = OrderedDict()
        self._directories: OrderedDict[int, dict[bytes, int]] = OrderedDict()

    def answer(self, data: bytes) -> bytes | None:
        """The reply; None where the kernel wants none. Raises Malformed."""
        request = fuse.parse_call(data)
        if request.call in _UNANSWERED:
            return None
        answer = _CALLS.get(request.call)
        if answer is None:
            return fuse.error_reply(request.unique, errno.ENOSYS)
        try:
            return answer(self, request)
        except ContainerError as error:
            self._on_refused(error)
            return fuse.error_reply(request.unique, errno.EIO)
        except NotADirectoryError:
            return fuse.error_reply(request.unique, errno.ENOTDIR)
        except IsADirectoryError:
            return fuse.error_reply(request.unique, errno.EISDIR)

    # --- calls

    def _init(self, request: Request) -> bytes:
        return fuse.initial_reply(request.unique, request.data)

    def _look_up(self, request: Request) -> bytes:
        number = self._names(self._node(request.node)).get(fuse.name_of(request.data))
        if number is None:
            return fuse.missing_reply(request.unique)
        return fuse.entry_reply(request.unique, _attributes(self._node(number)))

    def _attributes(self, request: Request) -> bytes:
        return fuse.attributes_reply(request.unique, _attributes(self._node(request.node)))

    def _read_link(self, request: Request) -> bytes:
        node = self._node(request.node)
        if not node.inode.is_symlink:
            return fuse.error_reply(request.unique, errno.EINVAL)
        return fuse.reply(request.unique, self._volume.read_link(node))

    def _open(self, request: Request) -> bytes:
        return fuse.opened_reply(request.unique, directory=request.call == Call.OPENDIR)

    def _read(self, request: Request) -> bytes:
        offset, size = fuse.read_arguments(request.data)
        node = self._node(request.node)
        return fuse.reply(request.unique, self._volume.read(node, offset, min(size, fuse.MAX_READ)))

    def _read_directory(self, request: Request) -> bytes:
        offset, size = fuse.read_arguments(request.data)
        node = self._node(request.node)
        names = list(self._names(node).items())
        entries = [
            (b".", node.number),
            (b"..", node.number),
            *names,
        ]  # nobody asks this place for a real ".."
        told = bytearray()
        for following, (name, number) in enumerate(entries[offset:], offset + 1):
            entry = fuse.directory_entry(_id(number), following, name, self._node(number).inode.mode)
            if len(told) + len(entry) > size:
                break
            told += entry
        return fuse.reply(request.unique, bytes(told))

    def _statistics(self, request: Request) -> bytes:
        return fuse.statistics_reply(request.unique, self._volume.blocks, self._volume.inodes)

    def _get_attribute(self, request: Request) -> bytes:
        room, name = fuse.xattr_arguments(request.data)
        value = self._told(request.node).get(fuse.name_of(name))
        if value is None:
            return fuse.error_reply(request.unique, errno.ENODATA)
        return _fitting(request.unique, room, value)

    def _list_attributes(self, request: Request) -> bytes:
        room, _ = fuse.xattr_arguments(request.data)
        names = b"".join(name + b"\0" for name in sorted(self._told(request.node)))
        return _fitting(request.unique, room, names)

    def _released(self, request: Request) -> bytes:
        return fuse.reply(request.unique)

    # --- the volume, with what was read last

    def _node(self, identifier: int) -> Node:
        number = ROOT if identifier == fuse.ROOT_ID else identifier
        with self._lock:
            if (known := self._nodes.get(number)) is not None:
                self._nodes.move_to_end(number)
                return known
        found = self._volume.node(number)
        with self._lock:
            _keep(self._nodes, number, found, _KEPT_NODES)
        return found

    def _names(self, node: Node) -> dict[bytes, int]:
        with self._lock:
            if (known := self._directories.get(node.number)) is not None:
                self._directories.move_to_end(node.number)
                return known
        found = self._volume.names(node)
        with self._lock:
            _keep(self._directories, node.number, found, _KEPT_DIRECTORIES)
        return found

    def _told(self, identifier: int) -> dict[bytes, bytes]:
        found = self._volume.xattrs(self._node(identifier))
        return {
            name: value
            for name, value in found.items()
            if name.startswith(_TOLD) and not name.startswith(_NOT_TOLD)
        }


def _keep(kept: OrderedDict[int, Kept], number: int, value: Kept, most: int) -> None:
    kept[number] = value
    while len(kept) > most:
        kept.popitem(last=False)


def _id(number: int) -> int:
    return fuse.ROOT_ID if number == ROOT else number


def _attributes(node: Node) -> Attributes:
    inode = node.inode
    device = 0
    if inode.mode >> 12 in (2, 6):  # a character or block device
        major, minor = inode.device
        device = os.makedev(major, minor) & 0xFFFFFFFF
    return Attributes(
        _id(node.number), inode.mode, inode.size, inode.blocks, inode.mtime, inode.links, device
    )


def _fitting(unique: int, room: int, value: bytes) -> bytes:
    if not room:
        return fuse.size_reply(unique, len(value))
    if len(value) > room:
        return fuse.error_reply(unique, errno.ERANGE)
    return fuse.reply(unique, value)


_UNANSWERED: Final = frozenset({Call.FORGET, Call.BATCH_FORGET, Call.INTERRUPT})
_CALLS: Final[Mapping[int, Callable[[VolumeAnswers, Request], bytes]]] = MappingProxyType(
    {
        Call.INIT: VolumeAnswers._init,
        Call.LOOKUP: VolumeAnswers._look_up,
        Call.GETATTR: VolumeAnswers._attributes,
        Call.READLINK: VolumeAnswers._read_link,
        Call.OPEN: VolumeAnswers._open,
        Call.OPENDIR: VolumeAnswers._open,
        Call.READ: VolumeAnswers._read,
        Call.READDIR: VolumeAnswers._read_directory,
        Call.STATFS: VolumeAnswers._statistics,
        Call.GETXATTR: VolumeAnswers._get_attribute,
        Call.LISTXATTR: VolumeAnswers._list_attributes,
        Call.RELEASE: VolumeAnswers._released,
        Call.RELEASEDIR: VolumeAnswers._released,
        Call.DESTROY: VolumeAnswers._released,
    }
)
