"""A tree that comes out of a volume: what is on the disk afterwards is what the volume said, and nothing outside was touched."""

from __future__ import annotations

import os
import stat
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import BlockRefused, Unextractable
from keyvisor_guest.containers.ext4.inodes import ROOT, new_inode
from keyvisor_guest.containers.ext4.library import Filesystem
from keyvisor_guest.containers.ext4.reading import VolumeReader
from keyvisor_guest.containers.ext4.tree import Tree
from keyvisor_guest.containers.ext4.volume import Volume
from keyvisor_guest.containers.extracting import Extracted, ExtractOptions, extract
from keyvisor_guest.containers.tar_layers import Entry, Kind

from .archives import reader
from .ext4.shadow_tree import ShadowTree
from .ext4.test_layer_stacks import Layer, fresh, hiding_first, possible_part, some_entry

IS_ROOT = os.geteuid() == 0
EARLIEST = -(2**31) * 10**9
NOTHING = ExtractOptions()
EVERYTHING = ExtractOptions(owners=True, set_id=True, devices=True)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def file(path: str, data: bytes = b"", **fields: object) -> tuple[Entry, bytes]:
    parts = tuple(part.encode() for part in path.split("/"))
    entry = Entry(parts, Kind.FILE, mode=0o644, size=len(data))
    return replace(entry, **fields), data  # type: ignore[arg-type]


def other(path: str, kind: Kind, **fields: object) -> tuple[Entry, bytes]:
    entry = Entry(tuple(part.encode() for part in path.split("/") if part), kind, mode=0o755)
    return replace(entry, **fields), b""  # type: ignore[arg-type]


def volume(directory: Path, *layers: Layer) -> VolumeReader:
    path = directory / "volume"
    made = Volume.create(path, UUID(int=3), 4096, 1024)
    for number, layer in enumerate(layers):
        made.apply(number, fresh(layer))
    return reader(path)


def put_out(source: VolumeReader, target: Path, options: ExtractOptions = NOTHING, **more) -> Extracted:  # type: ignore[no-untyped-def]
    target.mkdir()
    with opened(target) as descriptor:
        return extract(source, descriptor, options, **more)


def mode_of(mode: int, *, whole: bool) -> int:
    """Linux has no symlink with a mode of its own."""
    if stat.S_ISLNK(mode):
        return stat.S_IFLNK | 0o777
    return mode if whole else mode & ~0o6000


def kept_time(mtime: int) -> int:
    """In the first second that a file system has, Linux keeps no nanoseconds."""
    return EARLIEST if mtime // 10**9 * 10**9 == EARLIEST else mtime


def on_disk(root: Path, *, whole: bool) -> dict[bytes, object]:
    """Everything below `root` that somebody in the container would see; `whole`: owners, devices and all bits too."""
    found: dict[bytes, object] = {}
    shared: dict[int, list[bytes]] = {}
    top = os.fsencode(root)
    places = [
        top,
        *(os.path.join(where, name) for where, dirs, files in os.walk(top) for name in (*dirs, *files)),
    ]
    for place in sorted(places):
        shared.setdefault(os.lstat(place).st_ino, []).append(place[len(top) :])
    for place in places:
        seen = os.lstat(place)
        content: object = None
        if stat.S_ISREG(seen.st_mode):
            content = Path(os.fsdecode(place)).read_bytes()
        elif stat.S_ISLNK(seen.st_mode):
            content = os.readlink(place)
        elif stat.S_ISCHR(seen.st_mode) or stat.S_ISBLK(seen.st_mode):
            content = (os.major(seen.st_rdev), os.minor(seen.st_rdev))
        found[place[len(top) :]] = (
            mode_of(seen.st_mode, whole=whole),
            (seen.st_uid, seen.st_gid) if whole else None,
            seen.st_mtime_ns,
            content,
            tuple(shared[seen.st_ino]),
        )
    return found


def expected(tree: ShadowTree, *, whole: bool) -> dict[bytes, object]:
    """The same of the model."""
    things = [
        (path, thing)
        for path, thing in tree.walk()
        if whole or stat.S_IFMT(thing.mode) not in (stat.S_IFCHR, stat.S_IFBLK)
    ]
    shared: dict[int, list[bytes]] = {}
    for path, thing in sorted(things, key=lambda found: found[0]):
        shared.setdefault(id(thing), []).append(path)
    return {
        path: (
            mode_of(thing.mode, whole=whole),
            thing.owner if whole else None,
            kept_time(thing.mtime),
            thing.content,
            tuple(shared[id(thing)]),
        )
        for path, thing in things
    }


some_stacks = st.lists(st.lists(some_entry(), min_size=4, max_size=16), min_size=1, max_size=3)


def check_stack(layers: list[Layer], *, whole: bool) -> None:
    possible, tree = possible_part([hiding_first(layer) for layer in layers])
    with tempfile.TemporaryDirectory() as directory:
        source = volume(Path(directory), *possible)
        target = Path(directory, "out")
        put_out(source, target, EVERYTHING if whole else ExtractOptions())
        assert on_disk(target, whole=whole) == expected(tree, whole=whole)


@given(some_stacks)
@settings(max_examples=40, deadline=None)
def test_what_comes_out_is_what_the_model_says(layers: list[Layer]) -> None:
    check_stack(layers, whole=False)


@pytest.mark.skipif(not IS_ROOT, reason="owners and devices take root")
@given(some_stacks)
@settings(max_examples=40, deadline=None)
def test_root_gets_owners_and_devices_where_they_are_asked_for(layers: list[Layer]) -> None:
    check_stack(layers, whole=True)


def test_what_gives_power_is_left_out_and_counted(tmp_path: Path) -> None:
    source = volume(
        tmp_path,
        [
            file("su", b"#!", mode=0o4755, uid=0, xattrs=((b"security.capability", b"x" * 20),)),
            other("shared", Kind.DIRECTORY, mode=0o2775, gid=5),
            other("null", Kind.CHARACTER_DEVICE, device=(1, 3)),
            other("null-too", Kind.HARD_LINK, target=(b"null",)),
            other("sda", Kind.BLOCK_DEVICE, device=(8, 0)),
            other("pipe", Kind.FIFO, mode=0o620),
        ],
    )
    found = put_out(source, tmp_path / "out")
    assert (found.devices_left, found.set_ids_left, found.attributes_left, found.others) == (3, 2, 1, 1)
    assert sorted(os.listdir(tmp_path / "out")) == ["pipe", "shared", "su"]
    assert stat.S_IMODE((tmp_path / "out/su").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "out/shared").stat().st_mode) == 0o775
    assert (tmp_path / "out/su").stat().st_uid == os.geteuid()


@pytest.mark.skipif(not IS_ROOT, reason="devices take root")
def test_set_id_and_devices_come_where_they_are_asked_for(tmp_path: Path) -> None:
    layer = [
        file("su", b"#!", mode=0o4755, uid=1234),
        other("null", Kind.CHARACTER_DEVICE, device=(1, 3)),
        other("null-too", Kind.HARD_LINK, target=(b"null",)),
    ]
    put_out(volume(tmp_path, layer), tmp_path / "out", EVERYTHING)
    seen = (tmp_path / "out/su").stat()
    assert (stat.S_IMODE(seen.st_mode), seen.st_uid) == (0o4755, 1234)
    assert os.lstat(tmp_path / "out/null").st_rdev == os.makedev(1, 3)
    assert os.lstat(tmp_path / "out/null").st_nlink == 2


def test_symlinks_are_links_and_lead_nobody(tmp_path: Path) -> None:
    """Absolute, upwards, to itself: a file that a later name puts behind one lands inside the volume, or nowhere."""
    outside = tmp_path / "outside"
    outside.mkdir()
    source = volume(
        tmp_path,
        [
            other("out", Kind.SYMLINK, link=str(outside).encode()),
            other("up", Kind.SYMLINK, link=b"../../../outside"),
            other("self", Kind.SYMLINK, link=b"self"),
            file("out/evil", b"1"),
            file("up/evil", b"2"),
        ],
    )
    put_out(source, tmp_path / "target")
    assert os.listdir(outside) == []
    assert os.readlink(tmp_path / "target/out") == str(outside)
    assert os.readlink(tmp_path / "target/self") == "self"
    inside = tmp_path / "target" / str(outside).lstrip("/") / "evil"
    assert inside.read_bytes() == b"1"


class Swapping:
    """A volume whose blocks come as they are, and that swaps a directory for a symlink while a file's content is read."""

    def __init__(self, source: VolumeReader, file: bytes, inside: Path, outside: Path) -> None:
        self._read_at = source._read_at
        (extent, *_) = source.extents(source.find(tuple(file.split(b"/"))))
        self._start = extent.start * 4096
        self._inside = inside
        self._outside = outside

    def __call__(self, offset: int, length: int) -> bytes:
        if offset == self._start and not self._inside.is_symlink():
            self._inside.rename(self._inside.with_name("moved"))
            self._inside.symlink_to(self._outside)
        return self._read_at(offset, length)


def test_a_directory_that_becomes_a_symlink_meanwhile_leads_nobody_out(tmp_path: Path) -> None:
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    source = volume(tmp_path, [file("etc/a", b"1" * 5000), file("etc/b", b"2"), file("etc/sub/c", b"3")])
    put_out(VolumeReader(Swapping(source, b"etc/a", out / "etc", outside)), out)
    assert os.listdir(outside) == []
    assert sorted(os.listdir(out / "moved")) == ["a", "b", "sub"]


def test_a_second_name_is_not_taken_from_where_a_symlink_leads(tmp_path: Path) -> None:
    outside, out = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    (outside / "a").write_text("somebody else's")
    layer = [
        file("etc/a", b"1"),
        other("zz", Kind.HARD_LINK, target=(b"etc", b"a")),
        file("file", b"2" * 5000),
    ]
    source = volume(tmp_path, layer)
    with pytest.raises(Unextractable, match="zz"):
        put_out(VolumeReader(Swapping(source, b"file", out / "etc", outside)), out)
    assert not (out / "zz").exists()


def evil_volume(directory: Path, *names: bytes) -> VolumeReader:
    """A volume with names that no layer can make: straight into the root directory's block."""
    path = directory / "volume"
    Volume.create(path, UUID(int=3), 4096, 1024)
    filesystem = Filesystem(path, 1)
    tree = Tree(filesystem, 40)
    for name in names:
        tree.make(ROOT, name, new_inode(stat.S_IFREG | 0o644))
    filesystem.close()
    return reader(path)


@pytest.mark.parametrize("name", [b"../evil", b"/evil", b"a/b", b"nul\0byte", b"/"])
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: bytes) -> None:
    with pytest.raises(Unextractable, match="no name that a file can have"):
        put_out(evil_volume(tmp_path, name), tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []
    assert sorted(os.listdir(tmp_path)) == ["out", "volume"]


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    """A symlink and then a file of one name: what exists is not opened."""
    with pytest.raises(Unextractable, match="file exists"):
        put_out(evil_volume(tmp_path, b"twice", b"twice"), tmp_path / "out")


def test_a_directory_that_holds_something_is_not_used(tmp_path: Path) -> None:
    source = volume(tmp_path, [file("a", b"new")])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").symlink_to(tmp_path / "elsewhere")
    with opened(tmp_path / "out") as descriptor, pytest.raises(Unextractable, match="not empty"):
        extract(source, descriptor)
    assert not (tmp_path / "elsewhere").exists()


def test_holes_stay_holes_and_names_of_one_file_stay_one(tmp_path: Path) -> None:
    data = b"x" * 4096 + bytes(40 << 20) + b"end"
    source = volume(tmp_path, [file("big", data), other("also", Kind.HARD_LINK, target=(b"big",))])
    found = put_out(source, tmp_path / "out")
    seen = (tmp_path / "out/big").stat()
    assert (tmp_path / "out/also").read_bytes() == data
    assert seen.st_nlink == 2
    assert seen.st_blocks * 512 < 1 << 20
    assert (found.files, found.hard_links, found.bytes) == (1, 1, 4099)


def test_a_file_that_ends_in_a_hole_has_its_whole_length(tmp_path: Path) -> None:
    put_out(volume(tmp_path, [file("a", b"x" + bytes(9000)), file("b", bytes(5000))]), tmp_path / "out")
    assert (tmp_path / "out/a").read_bytes() == b"x" + bytes(9000)
    assert (tmp_path / "out/b").read_bytes() == bytes(5000)


CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # version 2, effective: cap_net_bind_service


@pytest.mark.skipif(not IS_ROOT, reason="file capabilities and trusted attributes take root")
@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (NOTHING, {"user.a"}),
        (ExtractOptions(owners=True), {"user.a", "trusted.b"}),
        (ExtractOptions(set_id=True), {"user.a", "security.capability"}),
        (EVERYTHING, {"user.a", "trusted.b", "security.capability"}),
    ],
)
def test_attributes_come_as_they_are_asked_for(
    tmp_path: Path, options: ExtractOptions, kept: set[str]
) -> None:
    xattrs = ((b"security.capability", CAPABILITY), (b"trusted.b", b"2"), (b"user.a", b"1"))
    found = put_out(volume(tmp_path, [file("a", b"x", xattrs=xattrs)]), tmp_path / "out", options)
    there = {name: os.getxattr(tmp_path / "out/a", name) for name in os.listxattr(tmp_path / "out/a")}
    if "user.a" not in there:
        pytest.skip("the file system of the tests keeps no attributes")
    assert there.keys() == kept
    assert all(there[name.decode()] == value for name, value in xattrs if name.decode() in kept)
    assert found.attributes_left == 3 - len(kept)


def test_directories_get_their_modes_when_all_is_in_them(tmp_path: Path) -> None:
    """Names in a directory that nobody may write to, and a second name for a file in one that nobody may pass."""
    source = volume(
        tmp_path,
        [
            other("closed", Kind.DIRECTORY, mode=0o000, mtime=5 * 10**9),
            file("closed/file", b"1"),
            other("closed/read", Kind.DIRECTORY, mode=0o555, mtime=6 * 10**9),
            file("closed/read/file", b"2"),
            other("other", Kind.HARD_LINK, target=(b"closed", b"file")),
        ],
    )
    script = tmp_path / "run"
    script.mkdir()
    _as_nobody(lambda: put_out(source, script / "out"), script)
    closed = (script / "out/closed").stat()
    assert (stat.S_IMODE(closed.st_mode), closed.st_mtime) == (0o000, 5)
    if IS_ROOT:
        assert stat.S_IMODE((script / "out/closed/read").stat().st_mode) == 0o555
        assert (script / "out/closed/file").stat().st_ino == (script / "out/other").stat().st_ino
    os.chmod(script / "out/closed", 0o700)


def _as_nobody(action, directory: Path) -> None:  # type: ignore[no-untyped-def]
    """As somebody whom modes bind, where we can become that; else as who we are."""
    if not IS_ROOT:
        action()
        return
    os.chown(directory, 65534, 65534)
    for parent in directory.parents[:3]:
        os.chmod(parent, stat.S_IMODE(parent.stat().st_mode) | 0o011)  # noqa: S103 pytest's own directories are for their owner only
    os.seteuid(65534)
    try:
        action()
    finally:
        os.seteuid(0)


def test_a_block_that_is_refused_leaves_no_file_of_its_name(tmp_path: Path) -> None:
    source = volume(tmp_path, [file("a", b"good"), file("b", b"z" * (3 << 20))])
    bad = source.extents(source.find((b"b",)))[0]
    honest = source._read_at

    def read_at(offset: int, length: int) -> bytes:
        if offset <= (bad.start + 400) * 4096 < offset + length:
            raise BlockRefused(bad.start + 400, 0)
        return honest(offset, length)

    with pytest.raises(BlockRefused):
        put_out(VolumeReader(read_at), tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["a"]


def test_a_part_of_the_tree(tmp_path: Path) -> None:
    source = volume(tmp_path, [file("etc/a", b"1"), file("etc/sub/b", b"2"), file("top", b"3")])
    put_out(source, tmp_path / "out", start=source.find((b"etc",)))
    assert sorted(os.listdir(tmp_path / "out")) == ["a", "sub"]
    assert (tmp_path / "out/sub/b").read_bytes() == b"2"
    with pytest.raises(Unextractable, match="no directory"):
        put_out(source, tmp_path / "out2", start=source.find((b"top",)))


def test_a_tree_deeper_than_the_system_has_files_open_is_refused(tmp_path: Path) -> None:
    path = "/".join(["d"] * 200)
    chain = [other(path, Kind.DIRECTORY), other("one", Kind.SYMLINK, link=path.encode())]
    chain += [other(f"one/{path}", Kind.DIRECTORY), other("two", Kind.SYMLINK, link=f"one/{path}".encode())]
    chain += [other(f"two/{path}", Kind.DIRECTORY)]
    with pytest.raises(Unextractable, match="deeper than 512"):
        put_out(volume(tmp_path, chain), tmp_path / "out")


def test_progress_tells_the_bytes_that_were_written(tmp_path: Path) -> None:
    seen: list[int] = []
    found = put_out(volume(tmp_path, [file("a", b"x" * (3 << 20))]), tmp_path / "out", progress=seen.append)
    assert seen == sorted(seen)
    assert len(seen) >= 3
    assert found.bytes == seen[-1] == 3 << 20
