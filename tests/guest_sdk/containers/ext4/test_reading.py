"""The reader against e2fsprogs' own programs, and against volumes that somebody damaged."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import VolumeUnusable
from keyvisor_guest.containers.ext4.directories import directory_entries
from keyvisor_guest.containers.ext4.reading import VolumeReader
from keyvisor_guest.containers.ext4.volume import Volume
from keyvisor_guest.containers.ext4.xattrs import attributes_of_block, attributes_of_inode
from keyvisor_guest.containers.tar_layers import Kind

from ..archives import a_file, an_entry, reader

BLOCKS = 4096


@pytest.fixture(scope="module")
def volume_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("volume") / "volume"
    volume = Volume.create(path, UUID(int=9), BLOCKS, 1024)
    chunks = hashlib.shake_128(b"holes").digest(64 * 4096)
    # Every other block a hole: as many extents as blocks, so that they need a tree.
    holes = b"".join(chunks[at : at + 4096] + bytes(4096) for at in range(0, len(chunks), 4096))
    volume.apply(
        0,
        [
            a_file("etc/passwd", b"root:x:0:0"),
            a_file("holes", holes),
            a_file("plain", chunks[:10_000], xattrs=((b"user.long", b"v" * 2000), (b"user.short", b"v"))),
            an_entry("link", Kind.SYMLINK, link=b"etc/../etc"),
            an_entry("up", Kind.SYMLINK, link=b"../../../etc/passwd"),
            an_entry("a", Kind.SYMLINK, link=b"b"),
            an_entry("b", Kind.SYMLINK, link=b"a"),
        ],
    )
    return path


def parts(path: str) -> tuple[bytes, ...]:
    return tuple(os.fsencode(path).split(b"/"))


class TestReading:
    @pytest.mark.parametrize("name", ["holes", "plain", "etc/passwd"])
    def test_the_same_as_debugfs(self, volume_file: Path, name: str) -> None:
        done = subprocess.run(
            ["/usr/sbin/debugfs", "-R", f"cat /{name}", volume_file], capture_output=True, check=True
        )
        volume = reader(volume_file)
        assert volume.read(volume.find(parts(name))) == done.stdout

    def test_extents_of_a_file_with_holes(self, volume_file: Path) -> None:
        volume = reader(volume_file)
        extents = volume.extents(volume.find((b"holes",)))
        assert [(extent.first, extent.count) for extent in extents] == [
            (2 * number, 1) for number in range(64)
        ]

    @given(st.integers(0, 530_000), st.integers(0, 30_000))
    @settings(max_examples=60, deadline=None)
    def test_any_part(self, volume_file: Path, offset: int, length: int) -> None:
        volume = reader(volume_file)
        node = volume.find((b"holes",))
        whole = volume.read(node)
        assert volume.read(node, offset, length) == whole[offset : offset + length]

    def test_paths_follow_symlinks_inside_the_volume(self, volume_file: Path) -> None:
        volume = reader(volume_file)
        assert volume.find(parts("link/passwd")).path == (b"etc", b"passwd")
        assert volume.find((b"up",)).path == (b"etc", b"passwd")
        assert volume.find((b"up",), follow=False).inode.is_symlink
        assert volume.find(parts("../..//etc/./passwd")).path == (b"etc", b"passwd")

    @pytest.mark.parametrize(
        ("path", "error"),
        [("none", FileNotFoundError), ("etc/passwd/x", NotADirectoryError), ("a", VolumeUnusable)],
    )
    def test_paths_that_lead_nowhere(self, volume_file: Path, path: str, error: type[Exception]) -> None:
        with pytest.raises(error):
            reader(volume_file).find(parts(path))

    def test_a_directory_is_no_file_and_a_file_no_directory(self, volume_file: Path) -> None:
        volume = reader(volume_file)
        with pytest.raises(IsADirectoryError):
            volume.read(volume.find((b"etc",)))
        with pytest.raises(NotADirectoryError):
            volume.children(volume.find((b"plain",)))

    def test_only_what_is_asked_for_is_read(self, volume_file: Path) -> None:
        """So that a lazily decrypted image decrypts little."""
        data, touched = volume_file.read_bytes(), set[int]()

        def read_at(offset: int, length: int) -> bytes:
            touched.update(range(offset // 4096, -(-(offset + length) // 4096)))
            return data[offset : offset + length]

        volume = VolumeReader(read_at)
        assert volume.read(volume.find(parts("etc/passwd"))) == b"root:x:0:0"
        assert len(touched) <= 8


class TestDamage:
    def test_no_volume_at_all(self) -> None:
        for data in (b"", bytes(4096)):
            with pytest.raises(VolumeUnusable, match="no ext4 volume"):
                VolumeReader(lambda offset, length, data=data: data[offset : offset + length])

    @pytest.mark.parametrize(
        "feature", [0x8000, 0x4, 0x10, 0x10000]
    )  # inline data, journal, meta_bg, encryption
    def test_features_that_are_not_ours(self, volume_file: Path, feature: int) -> None:
        data = bytearray(volume_file.read_bytes())
        struct.pack_into("<I", data, 1024 + 96, struct.unpack_from("<I", data, 1024 + 96)[0] | feature)
        with pytest.raises(VolumeUnusable, match="features"):
            VolumeReader(lambda offset, length: bytes(data[offset : offset + length]))

    def test_a_volume_that_is_cut_short(self, volume_file: Path) -> None:
        data = volume_file.read_bytes()[:8192]
        with pytest.raises(VolumeUnusable, match="shorter than it says"):
            list(VolumeReader(lambda offset, length: data[offset : offset + length]).walk())

    def test_a_directory_in_itself(self, volume_file: Path) -> None:
        data = bytearray(volume_file.read_bytes())
        place = data.index(b"\x03\x02etc")  # the entry of /etc: its inode becomes the root's
        struct.pack_into("<I", data, place - 6, 2)
        with pytest.raises(VolumeUnusable, match="in itself"):
            list(VolumeReader(lambda offset, length: bytes(data[offset : offset + length])).walk())

    def test_an_extent_tree_in_itself(self, volume_file: Path) -> None:
        """Each level leads to itself, as often as there is room: read at once or refused, not walked for ever."""
        data = bytearray(volume_file.read_bytes())
        volume = reader(volume_file)
        block_map = volume.find((b"holes",)).inode.block_map
        (leaf,) = struct.unpack_from("<I", block_map, 16)
        index = struct.pack("<HHHHI", 0xF30A, 340, 340, 1, 0) + struct.pack("<IIHH", 0, leaf, 0, 0) * 340
        data[leaf * 4096 : leaf * 4096 + len(index)] = index
        data[data.index(block_map) + 6] = 5
        damaged = VolumeReader(lambda offset, length: bytes(data[offset : offset + length]))
        with pytest.raises(VolumeUnusable, match="damaged"):
            damaged.read(damaged.find((b"holes",)))

    @given(st.lists(st.tuples(st.integers(0, 120 * 4096), st.binary(min_size=1, max_size=40)), max_size=8))
    @settings(max_examples=200, deadline=None)
    def test_any_damage_is_read_or_refused(self, volume_file: Path, changes: list[tuple[int, bytes]]) -> None:
        """A fuzz over superblock, descriptors, inodes and directories: no other error, and an end."""
        data = bytearray(volume_file.read_bytes())
        for offset, noise in changes:
            data[offset : offset + len(noise)] = noise

        def everything() -> None:
            volume = VolumeReader(lambda offset, length: bytes(data[offset : offset + length]))
            for node in volume.walk():
                volume.xattrs(node)
                if node.inode.is_symlink:
                    volume.read_link(node)
                elif not node.inode.is_directory and node.inode.block_map[:2] == b"\x0a\xf3":
                    volume.read(node, 0, 1 << 20)

        _read_or_refused(everything)

    @given(st.binary(max_size=200))
    @settings(max_examples=200, deadline=None)
    def test_any_bytes_for_names_and_attributes(self, noise: bytes) -> None:
        magic = struct.pack("<I", 0xEA020000)
        _read_or_refused(lambda: list(directory_entries(noise)))
        _read_or_refused(lambda: list(attributes_of_inode(magic + noise)))
        _read_or_refused(lambda: list(attributes_of_block(magic + bytes(28) + noise)))


def _read_or_refused(read: Callable[[], object]) -> None:
    try:
        read()
    except VolumeUnusable as error:
        assert "\n" not in str(error)  # noqa: PT017
