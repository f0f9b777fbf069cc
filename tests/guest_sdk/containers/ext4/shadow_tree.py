"""What a stack of layers is, in dictionaries: the model that volumes are held against.

Written from the image specification and not from our code: a layer's whiteouts come first and delete whole names, then its
entries are laid on top, one by one.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from keyvisor_guest.containers.ext4.reading import VolumeReader
from keyvisor_guest.containers.tar_layers import Entry, Kind

HOPS = 40
TYPES = {
    Kind.FILE: stat.S_IFREG,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.CHARACTER_DEVICE: stat.S_IFCHR,
    Kind.BLOCK_DEVICE: stat.S_IFBLK,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.FIFO: stat.S_IFIFO,
}


class Impossible(Exception):
    """An entry that no volume can have."""


@dataclass(eq=False)
class Thing:
    """One file, directory or other; two names that lead to the same object are hard links."""

    mode: int = stat.S_IFDIR | 0o755
    owner: tuple[int, int] = (0, 0)
    mtime: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    content: object = None
    below: dict[bytes, Thing] = field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class Missing(Exception):
    pass


class ShadowTree:
    def __init__(self) -> None:
        self.root = Thing()

    def hide(self, entry: Entry) -> None:
        """A whiteout, while only lower layers are there."""
        try:
            if entry.kind is Kind.OPAQUE:
                self._resolve(entry.path, create=False).below.clear()
            else:
                self._resolve(entry.path[:-1], create=False).below.pop(entry.path[-1], None)
        except Missing:
            return

    def add(self, entry: Entry, data: bytes) -> None:
        """Any other entry. Raises Impossible."""
        if not entry.path:
            self._describe(self.root, entry)
            return
        parent, name = self._resolve(entry.path[:-1], create=True), entry.path[-1]
        if entry.kind is Kind.HARD_LINK:
            parent.below[name] = self._link_target(entry)
            return
        there = parent.below.get(name)
        if not (entry.kind is Kind.DIRECTORY and there is not None and there.is_directory):
            there = parent.below[name] = Thing()
        self._describe(there, entry)
        if entry.kind is Kind.FILE:
            there.content = data
        elif entry.kind is Kind.SYMLINK:
            there.content = entry.link
        elif entry.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
            there.content = entry.device

    def _describe(self, thing: Thing, entry: Entry) -> None:
        thing.mode = TYPES[entry.kind] | entry.mode
        thing.owner = (entry.uid, entry.gid)
        thing.mtime = entry.mtime
        thing.xattrs = dict(entry.xattrs)

    def _link_target(self, entry: Entry) -> Thing:
        try:
            target = self._resolve(entry.target[:-1], create=False).below[entry.target[-1]]
        except (Missing, KeyError) as error:
            raise Impossible from error
        if target.is_directory:
            raise Impossible
        return target

    def _resolve(self, path: tuple[bytes, ...], *, create: bool) -> Thing:
        where, hops = [self.root], 0
        todo = list(path)
        while todo:
            name = todo.pop(0)
            if name in (b"", b"."):
                continue
            if name == b"..":
                where = where[:-1] or [self.root]
                continue
            found = where[-1].below.get(name)
            if found is None:
                if not create:
                    raise Missing
                found = where[-1].below[name] = Thing()
            if stat.S_ISLNK(found.mode):
                hops += 1
                if hops > HOPS:
                    raise Impossible
                assert isinstance(found.content, bytes)
                todo = found.content.split(b"/") + todo
                if found.content.startswith(b"/"):
                    where = [self.root]
            elif found.is_directory:
                where.append(found)
            elif create:
                raise Impossible
            else:
                raise Missing
        return where[-1]

    def walk(self) -> Iterator[tuple[bytes, Thing]]:
        pending = [(b"", self.root)]
        while pending:
            path, thing = pending.pop()
            yield path, thing
            pending.extend((path + b"/" + name, below) for name, below in thing.below.items())


Description = dict[bytes, tuple[object, ...]]


def described(tree: ShadowTree) -> Description:
    """By path: everything that somebody in the container would see, hard links by the paths that share a file."""
    links = Counter(id(thing) for _, thing in tree.walk())
    shared: dict[int, list[bytes]] = {}
    for path, thing in sorted(tree.walk(), key=lambda found: found[0]):
        shared.setdefault(id(thing), []).append(path)
    return {
        path: (
            thing.mode,
            thing.owner,
            thing.mtime,
            thing.xattrs,
            thing.content,
            tuple(shared[id(thing)]),
            2 + sum(below.is_directory for below in thing.below.values())
            if thing.is_directory
            else links[id(thing)],
        )
        for path, thing in tree.walk()
    }


def described_volume(volume: VolumeReader) -> Description:
    """The same of a volume."""
    nodes = list(volume.walk())
    paths = {node: b"".join(b"/" + part for part in node.path) for node in nodes}
    shared: dict[int, list[bytes]] = {}
    for node in sorted(nodes, key=paths.__getitem__):
        shared.setdefault(node.number, []).append(paths[node])
    result: Description = {}
    for node in nodes:
        inode, content = node.inode, None
        if stat.S_ISREG(inode.mode):
            content = volume.read(node)
        elif inode.is_symlink:
            content = volume.read_link(node)
        elif stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode):
            content = inode.device  # type: ignore[assignment]
        result[paths[node]] = (
            inode.mode, (inode.uid, inode.gid), inode.mtime, volume.xattrs(node), content,
            tuple(shared[node.number]), inode.links,
        )  # fmt: skip
    return result
