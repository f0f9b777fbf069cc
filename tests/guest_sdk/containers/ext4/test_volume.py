"""Volumes as layers make them, seen by programs that are not ours: e2fsck finds nothing, debugfs sees what was put in."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from keyvisor_guest.containers.errors import ImageRefused, Refusal, VolumeUnusable
from keyvisor_guest.containers.ext4 import library, programs
from keyvisor_guest.containers.ext4.reading import Node
from keyvisor_guest.containers.ext4.volume import Volume
from keyvisor_guest.containers.tar_layers import Entry, Kind

from ..archives import ACL, a_file, a_link, an_entry, names, reader

UUID_ = UUID("6b657976-6973-4f72-8000-000000000001")
BLOCKS, INODES = 4096, 1024


class Stack:
    """A volume that takes layers, checked by e2fsck after each."""

    def __init__(self, path: Path, blocks: int = BLOCKS) -> None:
        self.path = path
        self.volume = Volume.create(path, UUID_, blocks, min(INODES, blocks * 8))
        self.layers = 0

    def layer(self, *entries: Entry) -> None:
        try:
            self.volume.apply(self.layers, entries)
        finally:
            self.layers += 1
            fsck(self.path)

    def node(self, path: str) -> Node:
        return reader(self.path).find(tuple(part for part in path.encode().split(b"/") if part), follow=False)

    def read(self, path: str) -> bytes:
        return reader(self.path).read(self.node(path))


def fsck(path: Path) -> None:
    done = subprocess.run(["/usr/sbin/e2fsck", "-fn", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def debugfs(path: Path, request: str) -> str:
    done = subprocess.run(
        ["/usr/sbin/debugfs", "-R", request, path], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    return Stack(tmp_path / "volume")


class TestEntries:
    def test_an_empty_volume_has_nothing_in_it(self, stack: Stack) -> None:
        assert names(stack.path) == []
        fsck(stack.path)

    def test_a_file_as_debugfs_sees_it(self, stack: Stack) -> None:
        stack.layer(
            a_file("app", b"hello" * 3000, 0o4755, uid=70_000, gid=80_000, mtime=1_500_000_000_123_456_789)
        )
        seen = debugfs(stack.path, "stat /app")
        assert "Mode:  04755" in seen
        assert f"User: {70_000}   Group: {80_000}" in seen
        assert "Links: 1   Blockcount: 32" in seen
        for time in ("ctime", "atime", "mtime", "crtime"):
            assert f"{time}: 0x59682f00:{123_456_789 << 2:08x}" in seen
        assert debugfs(stack.path, "cat /app") == "hello" * 3000

    def test_every_kind(self, stack: Stack) -> None:
        stack.layer(
            an_entry("d", Kind.DIRECTORY, 0o1777),
            an_entry("short", Kind.SYMLINK, 0o777, link=b"t" * 59),
            an_entry("edge", Kind.SYMLINK, 0o777, link=b"t" * 60),
            an_entry("long", Kind.SYMLINK, 0o777, link=b"t" * 4095),
            an_entry("old", Kind.CHARACTER_DEVICE, 0o666, device=(1, 3)),
            an_entry("new", Kind.BLOCK_DEVICE, 0o660, device=(4095, 1_048_575)),
            an_entry("pipe", Kind.FIFO, 0o600),
        )
        volume = reader(stack.path)
        assert stat.filemode(stack.node("d").inode.mode) == "drwxrwxrwt"
        assert [len(volume.read_link(stack.node(name))) for name in ("short", "edge", "long")] == [
            59,
            60,
            4095,
        ]
        assert (stack.node("old").inode.device, stack.node("new").inode.device) == ((1, 3), (4095, 1_048_575))
        assert "Device major/minor number: 4095:1048575" in debugfs(stack.path, "stat /new")
        assert stat.S_ISFIFO(stack.node("pipe").inode.mode)

    @pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 300_000])
    def test_sizes(self, stack: Stack, size: int) -> None:
        data = os.urandom(size)
        stack.layer(a_file("f", data))
        assert stack.read("f") == data

    def test_a_sparse_file_takes_only_its_data(self, stack: Stack) -> None:
        data = bytes(40_000) + b"x" + bytes(5_000_000) + b"y" + bytes(9_000)
        stack.layer(a_file("f", data), a_file("zeros", bytes(1_000_001)))
        assert stack.read("f") == data
        assert stack.node("f").inode.blocks == 2 * 8
        assert (stack.node("zeros").inode.size, stack.node("zeros").inode.blocks) == (1_000_001, 0)

    def test_a_file_larger_than_4_gib_takes_what_is_in_it(self, tmp_path: Path) -> None:
        stack = Stack(tmp_path / "volume")
        piece = bytes(1 << 20)
        pieces = (piece if number < 5000 else b"end" + piece[3:] for number in range(5001))
        stack.layer(Entry((b"f",), Kind.FILE, 0o644, size=5001 << 20, data=pieces))
        node = stack.node("f")
        assert (node.inode.size, node.inode.blocks) == (5001 << 20, 8)
        assert reader(stack.path).read(node, 5000 << 20, 4) == b"end\0"

    @pytest.mark.parametrize(
        "name", [b"a b", b"\xff\xfe", b"new\nline", b"'\"\\$`", "ü".encode(), b"n" * 255, b"..."]
    )
    def test_odd_names(self, stack: Stack, name: bytes) -> None:
        stack.layer(a_file(name, b"x"), an_entry(name + b"d" if len(name) < 255 else b"d", Kind.DIRECTORY))
        assert name in names(stack.path)

    @pytest.mark.parametrize(
        ("mtime", "kept"),
        [
            (-1, -1),
            (-(2**31) * 10**9, -(2**31) * 10**9),
            (2**31 * 10**9 + 5, 2**31 * 10**9 + 5),
            (2**33 * 10**9, 2**33 * 10**9),
            (-62_135_596_800 * 10**9, -(2**31) * 10**9),  # Go's zero time
            (2**60 * 10**9, (2 * 2**32 + 2**31 - 1) * 10**9),
        ],
    )
    def test_times_before_1970_and_after_2038(self, stack: Stack, mtime: int, kept: int) -> None:
        stack.layer(a_file("f", mtime=mtime), an_entry("d", Kind.DIRECTORY, mtime=mtime))
        assert (stack.node("f").inode.mtime, stack.node("d").inode.mtime) == (kept, kept)

    def test_many_names_in_one_directory(self, stack: Stack) -> None:
        stack.layer(*[a_file(f"d/{number:0100}") for number in range(400)])
        assert len(names(stack.path)) == 401
        assert stack.node("d").inode.size > 4096

    def test_the_root_has_its_own_entry(self, stack: Stack) -> None:
        stack.layer(an_entry("", Kind.DIRECTORY, 0o700, uid=5, mtime=7_000_000_000))
        root = stack.node("").inode
        assert (stat.S_IMODE(root.mode), root.uid, root.mtime) == (0o700, 5, 7_000_000_000)

    def test_what_an_entry_implies(self, stack: Stack) -> None:
        """Parents that have no entry: root's, readable, and the same in every build."""
        stack.layer(a_file("a/b/c"))
        for path in ("a", "a/b"):
            inode = stack.node(path).inode
            assert (stat.S_IMODE(inode.mode), inode.uid, inode.gid, inode.mtime) == (0o755, 0, 0, 0)


class TestExtendedAttributes:
    ATTRIBUTES = (
        (b"security.capability", b"\x01\x00\x00\x02" + bytes(16)),
        (b"system.posix_acl_access", ACL),
        (b"trusted.overlay.x", b"y"),
        (b"user.empty", b""),
        (b"user.large", b"z" * 3000),
    )

    def test_of_all_kinds(self, stack: Stack) -> None:
        stack.layer(
            a_file("f", b"data", xattrs=self.ATTRIBUTES),
            an_entry("d", Kind.DIRECTORY, xattrs=((b"system.posix_acl_default", ACL),)),
            an_entry("s", Kind.SYMLINK, link=b"x", xattrs=((b"security.selinux", b"label"),)),
        )
        volume = reader(stack.path)
        assert volume.xattrs(stack.node("f")) == dict(self.ATTRIBUTES)
        assert volume.xattrs(stack.node("d")) == {b"system.posix_acl_default": ACL}
        assert volume.xattrs(stack.node("s")) == {b"security.selinux": b"label"}
        assert "user.large" in debugfs(stack.path, "ea_list /f")
        assert "security.capability (20)" in debugfs(stack.path, "ea_list /f")

    def test_a_directory_described_again_has_the_new_ones_only(self, stack: Stack) -> None:
        stack.layer(an_entry("d", Kind.DIRECTORY, xattrs=self.ATTRIBUTES))
        stack.layer(an_entry("d", Kind.DIRECTORY, xattrs=((b"user.new", b"1"),)))
        assert reader(stack.path).xattrs(stack.node("d")) == {b"user.new": b"1"}

    def test_too_large_for_ext4(self, stack: Stack) -> None:
        with pytest.raises(ImageRefused, match="give it fewer or shorter ones"):
            stack.layer(a_file("f", xattrs=((b"user.x", b"y" * 5000),)))

    def test_an_acl_of_another_form(self, stack: Stack) -> None:
        with pytest.raises(ImageRefused, match="not of version 2"):
            stack.layer(a_file("f", xattrs=((b"system.posix_acl_access", b"\x01\x00\x00\x00"),)))


class TestWhiteouts:
    def test_a_name_goes_with_everything_below(self, stack: Stack) -> None:
        stack.layer(a_file("a/b/c", b"x"), a_file("a/b/d"), a_file("keep"))
        stack.layer(an_entry("a", Kind.WHITEOUT))
        assert names(stack.path) == [b"keep"]

    def test_what_is_not_there_is_no_harm(self, stack: Stack) -> None:
        stack.layer(a_file("keep"))
        stack.layer(*[an_entry(path, Kind.WHITEOUT) for path in ("none", "none/x", "keep/x")])
        assert names(stack.path) == [b"keep"]

    @pytest.mark.parametrize("first", [True, False])
    def test_an_opaque_directory_keeps_what_its_layer_has(self, stack: Stack, first: bool) -> None:
        """In whichever order the layer has them (image-spec, layer.md)."""
        stack.layer(
            a_file("d/old"),
            a_file("d/sub/old"),
            a_file("d/both", b"old"),
            an_entry("d/sub", Kind.DIRECTORY, 0o700),
        )
        opaque = [an_entry("d", Kind.OPAQUE)]
        new = [a_file("d/new"), a_file("d/sub/new"), a_file("d/both", b"new")]
        stack.layer(*(opaque + new if first else new + opaque))
        assert names(stack.path) == [b"d", b"d/both", b"d/new", b"d/sub", b"d/sub/new"]
        assert stack.read("d/both") == b"new"
        assert stat.S_IMODE(stack.node("d/sub").inode.mode) == 0o755

    def test_an_opaque_root(self, stack: Stack) -> None:
        stack.layer(a_file("a"), a_file("b/c"))
        stack.layer(a_file("new"), an_entry("", Kind.OPAQUE))
        assert names(stack.path) == [b"new"]

    def test_through_a_symlink_of_a_lower_layer(self, stack: Stack) -> None:
        stack.layer(a_file("usr/bin/x"), an_entry("bin", Kind.SYMLINK, link=b"usr/bin"))
        stack.layer(an_entry("bin/x", Kind.WHITEOUT))
        assert names(stack.path) == [b"bin", b"usr", b"usr/bin"]

    def test_a_layer_with_deletions_only_frees_what_it_deletes(self, stack: Stack) -> None:
        """T8. Again and again, or the volume would be full."""
        for _ in range(6):
            stack.layer(a_file("big", os.urandom(8 << 20)))
            stack.layer(an_entry("big", Kind.WHITEOUT))
        assert names(stack.path) == []


class TestReplacing:
    def test_a_directory_by_a_file_and_back(self, stack: Stack) -> None:
        stack.layer(a_file("a/b/c"))
        stack.layer(a_file("a", b"file"))
        assert (names(stack.path), stack.read("a")) == ([b"a"], b"file")
        stack.layer(an_entry("a", Kind.DIRECTORY), a_file("a/new"))
        assert names(stack.path) == [b"a", b"a/new"]

    def test_a_directory_by_a_directory_is_the_same_with_another_owner(self, stack: Stack) -> None:
        stack.layer(a_file("a/b"))
        stack.layer(an_entry("a", Kind.DIRECTORY, 0o700, uid=9))
        assert names(stack.path) == [b"a", b"a/b"]
        assert stack.node("a").inode.uid == 9

    def test_a_symlink_to_a_directory_by_a_directory(self, stack: Stack) -> None:
        """What the symlink led to stays as it is."""
        stack.layer(a_file("d/f"), an_entry("s", Kind.SYMLINK, link=b"d"))
        stack.layer(an_entry("s", Kind.DIRECTORY, 0o700))
        assert names(stack.path) == [b"d", b"d/f", b"s"]
        assert stack.node("s").inode.is_directory

    def test_a_device_by_a_file(self, stack: Stack) -> None:
        stack.layer(
            an_entry("x", Kind.CHARACTER_DEVICE, device=(1, 3)), an_entry("y", Kind.SYMLINK, link=b"t" * 99)
        )
        stack.layer(a_file("x", b"1"), a_file("y", b"2"))
        assert stack.read("x") + stack.read("y") == b"12"


class TestHardLinks:
    def test_two_names_are_one_file(self, stack: Stack) -> None:
        stack.layer(a_file("a", b"x"), a_link("d/b", "a"))
        stack.layer(a_link("c", "d/b"))
        assert {stack.node(path).number for path in ("a", "d/b", "c")} == {stack.node("a").number}
        assert stack.node("a").inode.links == 3

    def test_a_deleted_name_leaves_the_others(self, stack: Stack) -> None:
        stack.layer(a_file("a", b"x"), a_link("b", "a"))
        stack.layer(an_entry("a", Kind.WHITEOUT))
        assert (names(stack.path), stack.read("b"), stack.node("b").inode.links) == ([b"b"], b"x", 1)

    def test_to_a_symlink_links_the_symlink(self, stack: Stack) -> None:
        stack.layer(an_entry("s", Kind.SYMLINK, link=b"nowhere"), a_link("t", "s"))
        assert reader(stack.path).read_link(stack.node("t")) == b"nowhere"

    def test_to_itself_and_into_what_it_replaces(self, stack: Stack) -> None:
        stack.layer(a_file("a", b"x"), a_link("a", "a"))
        assert (stack.read("a"), stack.node("a").inode.links) == (b"x", 1)
        stack.layer(a_file("d/f", b"inside"), a_link("d", "d/f"))
        assert (stack.read("d"), stack.node("d").inode.links) == (b"inside", 1)

    @pytest.mark.parametrize(
        ("target", "reason"),
        [
            ("gone", "which is not there"),
            ("a/x", "which is not there"),
            ("d", "a directory"),
            ("", "not there"),
        ],
    )
    def test_to_what_cannot_be(self, stack: Stack, target: str, reason: str) -> None:
        with pytest.raises(ImageRefused, match=f"`/l` of layer 0: a hard link .*{reason}"):
            stack.layer(a_file("a"), an_entry("d", Kind.DIRECTORY), a_link("l", target))


class TestScope:
    """No name and no symlink leads above the volume's root."""

    def test_merged_usr(self, stack: Stack) -> None:
        stack.layer(an_entry("bin", Kind.SYMLINK, link=b"usr/bin"), an_entry("usr/bin", Kind.DIRECTORY))
        stack.layer(a_file("bin/app", b"x"))
        assert stack.read("usr/bin/app") == b"x"
        assert not stack.node("bin").inode.is_directory

    @pytest.mark.parametrize(
        "target",
        [b"../../../../etc", b"/etc", b"/../etc/.", b"a/../../etc", b"./etc//"],
        ids=lambda target: target.decode(),
    )
    def test_a_symlink_for_a_parent_ends_inside(self, stack: Stack, target: bytes) -> None:
        before = sorted(path.name for path in Path("/etc").iterdir())
        stack.layer(an_entry("a", Kind.DIRECTORY), an_entry("evil", Kind.SYMLINK, link=target))
        stack.layer(a_file("evil/keyvisor-was-here", b"x"))
        assert stack.read("etc/keyvisor-was-here") == b"x"
        assert sorted(path.name for path in Path("/etc").iterdir()) == before

    def test_an_absolute_target_is_meant_from_the_volumes_root(self, stack: Stack) -> None:
        stack.layer(
            an_entry("a/b/s", Kind.SYMLINK, link=b"/x"), an_entry("a/b/t", Kind.SYMLINK, link=b"../y")
        )
        stack.layer(a_file("a/b/s/f", b"absolute"), a_file("a/b/t/f", b"relative"))
        assert (stack.read("x/f"), stack.read("a/y/f")) == (b"absolute", b"relative")

    def test_a_dangling_symlink_for_a_parent_is_made_good(self, stack: Stack) -> None:
        stack.layer(an_entry("s", Kind.SYMLINK, link=b"not/yet"), a_file("s/f", b"x"))
        assert stack.read("not/yet/f") == b"x"

    def test_40_hops_and_no_more(self, stack: Stack) -> None:
        chain = [an_entry(f"s{number}", Kind.SYMLINK, link=b"s%d" % (number + 1)) for number in range(1, 41)]
        stack.layer(*chain, an_entry("s41", Kind.DIRECTORY), a_file("s1/f", b"x"))
        assert stack.read("s41/f") == b"x"
        with pytest.raises(ImageRefused, match="more than 40 symlinks: remove the loop") as refused:
            stack.layer(an_entry("s0", Kind.SYMLINK, link=b"s1"), a_file("s0/f"))
        assert refused.value.code is Refusal.LIMIT

    def test_a_loop(self, stack: Stack) -> None:
        with pytest.raises(ImageRefused, match="remove the loop"):
            stack.layer(
                an_entry("a", Kind.SYMLINK, link=b"b"), an_entry("b", Kind.SYMLINK, link=b"a"), a_file("a/x")
            )

    def test_a_file_for_a_parent(self, stack: Stack) -> None:
        with pytest.raises(ImageRefused, match=r"`/f/x` of layer 0: .* no directory"):
            stack.layer(a_file("f"), a_file("f/x"))


GROWING = {
    "directories": lambda number: an_entry(f"{number:0200}", Kind.DIRECTORY),
    "names": lambda number: a_file(f"{number:0200}"),
    "hard links": lambda number: a_link(f"{number:0200}", "first"),
    "symlinks": lambda number: an_entry(f"{number:0200}", Kind.SYMLINK, link=b"t" * 99),
    "attributes": lambda number: a_file(f"{number:0200}", xattrs=((b"user.x", b"y" * 999),)),
    "implied": lambda number: a_file(f"{number:0100}/{number:0100}/{number:0100}", b"z" * 5000),
    "deep": lambda number: an_entry("/".join("d" * (number + 1)), Kind.DIRECTORY),
}


class TestFull:
    def test_more_data_than_the_volume_holds(self, stack: Stack) -> None:
        """The volume is sound all the same, and has what came before."""
        with pytest.raises(
            ImageRefused, match=r"`/big` of layer 0: the image does not fit the volume: .*--size"
        ) as refused:
            stack.layer(a_file("small", b"x"), a_file("big", os.urandom(20 << 20)))
        assert refused.value.code is Refusal.LIMIT
        assert stack.read("small") == b"x"

    def test_more_files_than_inodes(self, stack: Stack) -> None:
        with pytest.raises(ImageRefused, match="more files than the volume has inodes"):
            stack.layer(*[a_file(f"f{number}") for number in range(INODES + 100)])

    @pytest.mark.parametrize("kind", GROWING)
    @pytest.mark.parametrize("taken", range(3))
    def test_wherever_it_becomes_full_it_is_sound(self, tmp_path: Path, kind: str, taken: int) -> None:
        """In data, in a directory that has to grow, in a block of attributes or of a symlink: `layer` runs e2fsck."""
        stack = Stack(tmp_path / "volume", blocks=128)
        stack.layer(a_file("first", b"x" * 4096 * taken))
        with pytest.raises(ImageRefused, match=r"does not fit the volume|more files than"):
            stack.layer(*[GROWING[kind](number) for number in range(2000 if kind != "deep" else 900)])


class TestDeterminism:
    """T13: the same layers give the same bytes, whoever builds and whenever."""

    @staticmethod
    def build(path: Path, uuid: UUID = UUID_) -> str:
        volume = Volume.create(path, uuid, BLOCKS, INODES)
        attributes = TestExtendedAttributes.ATTRIBUTES
        volume.apply(
            0,
            [a_file(f"d{number % 7}/f{number}", b"%d" % number * 900, mtime=number) for number in range(200)],
        )
        volume.apply(
            1, [an_entry("d3", Kind.WHITEOUT), a_file("x", b"y" * 9000, xattrs=attributes), a_link("z", "x")]
        )
        return hashlib.sha256(path.read_bytes()).hexdigest()

    def test_two_builds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = self.build(tmp_path / "one")
        config = tmp_path / "mke2fs.conf"
        config.write_text("[defaults]\nbase_features = has_journal\nblocksize = 1024\ninode_size = 128\n")
        monkeypatch.setenv("MKE2FS_CONFIG", str(config))
        monkeypatch.setenv("E2FSPROGS_FAKE_TIME", "12345")
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        assert self.build(tmp_path / "a longer name, elsewhere?") == first
        assert os.environ["E2FSPROGS_FAKE_TIME"] == "12345"

    def test_another_image_is_another_volume(self, tmp_path: Path) -> None:
        assert self.build(tmp_path / "one") != self.build(tmp_path / "two", UUID(int=7))


class TestWithout:
    """What is missing on the machine is said in one line."""

    def test_no_mke2fs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        missing: Callable[..., None] = lambda *_, **__: None  # noqa: E731
        monkeypatch.setattr(programs.shutil, "which", missing)
        with pytest.raises(VolumeUnusable, match="no mke2fs for the volume: run `apt-get install e2fsprogs`"):
            Volume.create(tmp_path / "v", UUID_, BLOCKS, INODES)

    def test_no_libext2fs(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(name: str) -> None:
            raise OSError(name)

        monkeypatch.setattr(library.ctypes, "CDLL", refuse)
        monkeypatch.setattr(library, "_library", library._library.__wrapped__)
        with pytest.raises(
            VolumeUnusable, match="no libext2fs to make volumes with: run `apt-get install e2fsprogs`"
        ):
            stack.volume.apply(0, [])

    def test_a_file_that_is_no_volume(self, tmp_path: Path) -> None:
        (tmp_path / "v").write_bytes(bytes(1 << 20))
        with pytest.raises(VolumeUnusable, match="libext2fs failed on the volume"):
            Volume(tmp_path / "v").apply(0, [])

    def test_a_size_that_no_volume_has(self, tmp_path: Path) -> None:
        with pytest.raises(VolumeUnusable, match="mke2fs made no volume"):
            Volume.create(tmp_path / "v", UUID_, 4, INODES)

    def test_a_damaged_volume_does_not_pass(self, stack: Stack) -> None:
        """The broken twin of every e2fsck in these tests."""
        stack.layer(a_file("f", b"x" * 9000))
        programs.check(stack.path)
        with stack.path.open("r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 64)
        with pytest.raises(VolumeUnusable, match="e2fsck finds the volume damaged"):
            programs.check(stack.path)
