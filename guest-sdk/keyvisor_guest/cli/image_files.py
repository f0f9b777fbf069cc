"""`keyvisor image ls`, `cat` and `extract`: the files in an image, read block by block as they are asked for."""

from __future__ import annotations

import datetime
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer

from keyvisor_guest.cli.image_key_options import KeyOptions, with_key_options
from keyvisor_guest.cli.image_opening import PathArgument, find_node, opened
from keyvisor_guest.cli.image_places import ImageArgument
from keyvisor_guest.cli.image_progress import bars
from keyvisor_guest.cli.options import JsonOption
from keyvisor_guest.cli.owner_files import print_fields
from keyvisor_guest.containers.errors import NotInImage
from keyvisor_guest.containers.ext4.reading import Node, VolumeReader
from keyvisor_guest.containers.extracting import ExtractOptions
from keyvisor_guest.containers.extracting import extract as put_out
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.names import shown
from keyvisor_policy.terminal import print_json, print_table

__all__ = ["cat", "extract", "ls"]

_ZEROS: Final = bytes(1 << 20)
_SECOND: Final = 10**9
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_KINDS: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


@with_key_options
def ls(
    keys: KeyOptions,
    image: ImageArgument,
    path: PathArgument = "/",
    recursive: Annotated[bool, typer.Option("-R", "--recursive", help="What is below, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List a directory of the image, or one file of it."""
    with opened(keys, image) as reader:
        volume = VolumeReader(reader.read_at)
        nodes = _listed(volume, path, recursive=recursive)
        if as_json:
            print_json({"entries": [_entry(volume, node) for node in nodes]})
        else:
            columns = ("mode", "links", "owner", "size", "changed", "path")
            print_table(columns, [_row(volume, node) for node in nodes], "an empty directory")


@with_key_options
def cat(keys: KeyOptions, image: ImageArgument, path: PathArgument) -> None:
    """Write a file of the image to standard output."""
    with opened(keys, image) as reader:
        volume = VolumeReader(reader.read_at)
        node = find_node(volume, path)
        if not stat.S_ISREG(node.inode.mode):
            raise NotInImage(f"{shown(node.path)} is a {_KINDS[stat.S_IFMT(node.inode.mode)]}, and no file")
        _copy(volume, node, sys.stdout.buffer)
        sys.stdout.buffer.flush()


@with_key_options
def extract(
    keys: KeyOptions,
    image: ImageArgument,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to: a new directory, or an empty one of your own.")
    ],
    path: Annotated[
        str, typer.Option("--path", metavar="PATH", help="Only what is below this directory of the image.")
    ] = "/",
    owners: Annotated[bool, typer.Option("--owners", help="Users, groups and ACLs too: takes root.")] = False,
    set_id: Annotated[bool, typer.Option("--set-id", help="Set-id bits and file capabilities too.")] = False,
    devices: Annotated[bool, typer.Option("--devices", help="Device nodes too: takes root.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Lay out the image's files in a directory. Owners, device nodes and set-id bits stay out, unless asked for."""
    options = ExtractOptions(owners, set_id, devices)
    with opened(keys, image) as reader, bars(quiet=as_json) as tell:
        volume = VolumeReader(reader.read_at)
        start = find_node(volume, path)
        if not start.inode.is_directory:
            raise NotInImage(f"{shown(start.path)} is no directory: `keyvisor image cat` reads a file")
        # For its owner only until all is out: what is in it has its modes before that.
        directory.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            stored = reader.stored_blocks * BLOCK
            found = put_out(
                volume, descriptor, options, start, lambda done: tell("extract", min(done, stored), stored)
            )
        finally:
            os.close(descriptor)
    counts = asdict(found)
    if as_json:
        print_json(counts)
    else:
        print_fields({name.replace("_", " "): str(count) for name, count in counts.items()})


def _listed(volume: VolumeReader, path: str, *, recursive: bool) -> Iterator[Node]:
    node = find_node(volume, path, follow=path.endswith("/"))
    if not node.inode.is_directory:
        yield node
    elif recursive:
        yield from (one for one in volume.walk(node) if one is not node)
    else:
        yield from volume.children(node)


def _entry(volume: VolumeReader, node: Node) -> dict[str, object]:
    inode = node.inode
    kind = _KINDS.get(stat.S_IFMT(inode.mode), "unknown")
    entry: dict[str, object] = {
        "path": _path(node),
        "kind": kind,
        "mode": stat.S_IMODE(inode.mode),
        "uid": inode.uid,
        "gid": inode.gid,
        "size": inode.size,
        "mtime_ns": inode.mtime,
        "links": inode.links,
        "inode": node.number,
    }
    if kind == "symlink":
        entry["target"] = os.fsdecode(volume.read_link(node))
    if kind.endswith("device"):
        entry["device"] = list(inode.device)
    return entry


def _row(volume: VolumeReader, node: Node) -> tuple[str, ...]:
    inode = node.inode
    device = stat.S_ISCHR(inode.mode) or stat.S_ISBLK(inode.mode)
    target = f" -> {os.fsdecode(volume.read_link(node))}" if inode.is_symlink else ""
    return (
        stat.filemode(inode.mode),
        str(inode.links),
        f"{inode.uid}:{inode.gid}",
        "{}, {}".format(*inode.device) if device else str(inode.size),
        _time(inode.mtime),
        f"{_path(node)}{target}",
    )


def _path(node: Node) -> str:
    return os.fsdecode(b"/" + b"/".join(node.path))


def _time(nanoseconds: int) -> str:
    return (_EPOCH + datetime.timedelta(seconds=nanoseconds // _SECOND)).strftime("%Y-%m-%d %H:%M:%SZ")


def _copy(volume: VolumeReader, node: Node, into: BinaryIO) -> None:
    """The file with zeros where it has holes, in bounded pieces."""
    position = 0

    def fill(end: int) -> None:
        for start in range(position, end, len(_ZEROS)):
            into.write(_ZEROS[: end - start])

    for offset, piece in volume.written(node):
        fill(offset)
        into.write(piece)
        position = offset + len(piece)
    fill(node.inode.size)
