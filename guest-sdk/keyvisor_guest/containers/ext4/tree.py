"""The tree of names in a volume that is being written: looked up, linked, deleted, and which of it this layer wrote.

Resolution is scoped: no name and no symlink leads above the volume's root. Knows inodes by number, and no tar.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass, field

from keyvisor_guest.containers.errors import ImageRefused, Refusal, VolumeUnusable
from keyvisor_guest.containers.ext4.directories import directory_entries, insert, remove
from keyvisor_guest.containers.ext4.inodes import (
    INODE_SIZE,
    ROOT,
    Inode,
    clear_in_inode,
    file_type,
    set_links,
    set_metadata,
)
from keyvisor_guest.containers.ext4.library import Filesystem
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.names import shown

__all__ = ["Tree"]

_MOST_LINKS = 65_000  # EXT4_LINK_MAX
_IMPLIED_MODE = 0o755


@dataclass(slots=True)
class _Directory:
    """What a directory has: names, and by name the block that it stands in. There is no room before `room` (block,
    entry in it): a name that goes in last is tried there first, so that a large directory does not cost its square."""

    blocks: int
    names: dict[bytes, int] = field(default_factory=dict)
    places: dict[bytes, int] = field(default_factory=dict)
    room: tuple[int, int] = (0, 0)
    room_for: bytes | None = None  # the name that surely fits there


class Tree:
    """Names over inodes. A directory's names are read once and then kept, so a layer's cost grows with what it touches."""

    def __init__(self, filesystem: Filesystem, symlink_hops: int) -> None:
        self._filesystem = filesystem
        self._symlink_hops = symlink_hops
        self._directories: dict[int, _Directory] = {}
        self._parents: dict[int, int] = {ROOT: ROOT}
        # By directory: the names that this layer made or went through, with whether an entry of it describes them.
        self._written: dict[int, dict[bytes, bool]] = {}

    def find(self, directory: int, name: bytes) -> int | None:
        """The inode that a name in a directory leads to."""
        return self._directory(directory).names.get(name)

    def inode(self, number: int) -> Inode:
        """An inode's fields."""
        return Inode.parse(self._filesystem.read_inode(number))

    def directory(self, path: tuple[bytes, ...], *, create: bool) -> int | None:
        """The directory at `path`, symlinks followed; with `create`, what is missing on the way is made as root's.

        Without, None where something is missing or no directory. Raises ImageRefused for what is no directory, with
        `create`, and for too many hops.
        """
        current, todo, hops = ROOT, list(reversed(path)), 0
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                current = self._parents[current]
                continue
            number = self.find(current, name)
            if number is None:
                if not create:
                    return None
                number = self.make_directory(current, name)
                self._set_implied(number)
            inode = (
                None if number in self._parents else self.inode(number)
            )  # those with a parent are directories
            if inode is not None and inode.is_symlink:
                hops += 1
                if hops > self._symlink_hops:
                    raise ImageRefused(
                        f"{shown(path)} leads through more than {self._symlink_hops} symlinks: remove the loop",
                        Refusal.LIMIT,
                    )
                target = self._target(number, inode)
                todo.extend(reversed(target.split(b"/")))
                current = ROOT if target.startswith(b"/") else current
                continue
            if inode is not None and not inode.is_directory:
                if not create:
                    return None
                raise ImageRefused(
                    f"{shown(path)} leads through a file that is no directory: build the image again"
                )
            if create:
                self._written.setdefault(current, {}).setdefault(name, False)
            self._parents[number] = current
            current = number
        return current

    def make_directory(self, parent: int, name: bytes) -> int:
        """A new, empty directory under a name that is free."""
        if self.inode(parent).links >= _MOST_LINKS:
            raise ImageRefused(
                f"a directory has more than {_MOST_LINKS - 2} directories in it: spread them over several"
            )
        self.make_room(parent, name)
        number = self._filesystem.allocate_inode(parent, stat.S_IFDIR)
        self._filesystem.make_directory(parent, number)
        self._directories[number] = _Directory(blocks=1)
        self._parents[number] = parent
        self.link(parent, name, number, stat.S_IFDIR)
        return number

    def make(self, parent: int, name: bytes, inode: bytearray) -> int:
        """A new file or device under a name that is free."""
        mode = struct.unpack_from("<H", inode)[0]
        self.make_room(parent, name)
        number = self._filesystem.allocate_inode(parent, mode)
        self._filesystem.count_inode(number, 1, directory=False)
        self._filesystem.write_inode(number, inode)
        self.link(parent, name, number, mode)
        return number

    def make_symlink(self, parent: int, name: bytes, target: bytes) -> int:
        """A new symlink under a name that is free."""
        self.make_room(parent, name)
        number = self._filesystem.allocate_inode(parent, stat.S_IFLNK)
        self._filesystem.make_symlink(parent, number, target)
        self.link(parent, name, number, stat.S_IFLNK)
        return number

    def link(self, parent: int, name: bytes, number: int, mode: int) -> None:
        """A name, free until now, for an inode that is there. The count of links is the caller's."""
        directory = self._directory(parent)
        if directory.room_for != name:
            self.make_room(parent, name)
        index, start = directory.room
        block = self._filesystem.read_directory_block(parent, index)
        place = insert(block, name, number, file_type(mode), start)
        if place is None:
            raise VolumeUnusable(
                "a directory of the volume changed while it was written: leave the volume alone"
            )
        self._filesystem.write_directory_block(parent, index, block)
        directory.room, directory.room_for = (index, place), None
        directory.names[name] = number
        directory.places[name] = index
        self.mark_written(parent, name)

    def make_room(self, parent: int, name: bytes) -> None:
        """Before anything is made that needs a name: if the volume is full then, there is nothing without one."""
        directory = self._directory(parent)
        index, start = directory.room
        while True:
            if index == directory.blocks:
                self._filesystem.expand_directory(parent)
                directory.blocks += 1
            block = self._filesystem.read_directory_block(parent, index)
            if insert(block, name, ROOT, 0, start) is not None:
                directory.room, directory.room_for = (index, start), name
                return
            index, start = index + 1, 0

    def count_links(self, number: int, change: int) -> None:
        """More or fewer names for an inode that is no directory; the last one takes the inode with it."""
        raw = self._filesystem.read_inode(number)
        links = Inode.parse(raw).links + change
        if links > _MOST_LINKS:
            raise ImageRefused(f"a file has more than {_MOST_LINKS} hard links: copy it instead")
        if links == 0:
            self._free(number, raw)
            return
        set_links(raw, links)
        self._filesystem.write_inode(number, raw)

    def mark_written(self, parent: int, name: bytes) -> None:
        """This layer has the name, so its own whiteouts leave it alone."""
        self._written.setdefault(parent, {})[name] = True

    def describe(
        self, number: int, mode: int, uid: int, gid: int, mtime: int, xattrs: tuple[tuple[bytes, bytes], ...]
    ) -> None:
        """Permission bits, owner, times (nanoseconds since 1970) and extended attributes, instead of all that it has."""
        raw = self._filesystem.read_inode(number)
        self._filesystem.free_attributes(number, raw)
        clear_in_inode(raw)
        set_metadata(raw, mode, uid, gid, mtime)
        self._filesystem.write_inode(number, raw)
        if xattrs:
            self._filesystem.set_xattrs(number, xattrs)

    def delete(self, parent: int, name: bytes) -> None:
        """A name with everything below it, whoever wrote it."""
        number = self._unlink(parent, name)
        # Over a list of our own: a path may be deeper than Python's stack of calls likes. Names in a directory that goes
        # with them need not be taken out one by one.
        going = [(parent, number)]
        for _, found in going:  # grows while it is walked
            if self.inode(found).is_directory:
                going.extend((found, child) for child in self._directory(found).names.values())
        for at, found in reversed(going):
            self._remove(at, found)

    def delete_lower(self, directory: int) -> None:
        """What lower layers have in a directory; what this layer wrote stays (image-spec, Whiteouts).

        So the order of a layer's entries does not matter: a directory that this layer only went through is as if it had
        made it.
        """
        pending = [directory]
        while pending:
            current = pending.pop()
            written = self._written.get(current, {})
            for name, number in list(self._directory(current).names.items()):
                if name not in written:
                    self.delete(current, name)
                elif self.inode(number).is_directory:
                    if not written[name]:
                        self._set_implied(number)
                    pending.append(number)

    def whiteout(self, directory: int, name: bytes) -> None:
        """A name of lower layers. Of a directory that this layer wrote into, what lower layers have in it."""
        number = self.find(directory, name)
        if number is None:
            return
        described = self._written.get(directory, {}).get(name)
        if described is None:
            self.delete(directory, name)
        elif self.inode(number).is_directory:
            if not described:
                self._set_implied(number)
            self.delete_lower(number)

    def _unlink(self, parent: int, name: bytes) -> int:
        """Takes a name out of its directory: what it led to."""
        directory = self._directory(parent)
        index = directory.places.pop(name)
        block = self._filesystem.read_directory_block(parent, index)
        remove(block, name)
        self._filesystem.write_directory_block(parent, index, block)
        directory.room, directory.room_for = min(directory.room, (index, 0)), None
        self._written.get(parent, {}).pop(name, None)
        return directory.names.pop(name)

    def _remove(self, parent: int, number: int) -> None:
        """What a name led to that is no more."""
        if not self.inode(number).is_directory:
            self.count_links(number, -1)
            return
        self._free(number, self._filesystem.read_inode(number))
        raw = self._filesystem.read_inode(parent)
        set_links(raw, Inode.parse(raw).links - 1)
        self._filesystem.write_inode(parent, raw)
        self._directories.pop(number, None)
        self._parents.pop(number, None)
        self._written.pop(number, None)

    def _free(self, number: int, raw: bytearray) -> None:
        directory = Inode.parse(raw).is_directory
        self._filesystem.free_content(number, raw)
        self._filesystem.write_inode(number, bytearray(INODE_SIZE))
        self._filesystem.count_inode(number, -1, directory=directory)

    def _directory(self, number: int) -> _Directory:
        if number not in self._directories:
            directory = _Directory(blocks=self.inode(number).size // BLOCK)
            for index in range(directory.blocks):
                for name, child in directory_entries(
                    bytes(self._filesystem.read_directory_block(number, index))
                ):
                    directory.names[name] = child
                    directory.places[name] = index
            self._directories[number] = directory
        return self._directories[number]

    def _set_implied(self, number: int) -> None:
        """A directory that no entry describes: root's, and as old as can be, so that every build has the same."""
        self.describe(number, _IMPLIED_MODE, 0, 0, 0, ())

    def _target(self, number: int, inode: Inode) -> bytes:
        if inode.size < len(inode.block_map):  # a short one stands in the inode itself
            return inode.block_map[: inode.size]
        return self._filesystem.read_file(number, inode.size)
