"""What the kernel is told of a volume, without a kernel: requests as it writes them, replies as it reads them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import BlockRefused, VolumeUnusable
from keyvisor_guest.containers.ext4.reading import VolumeReader
from keyvisor_guest.containers.ext4.volume import Volume
from keyvisor_guest.containers.fuse import protocol
from keyvisor_guest.containers.fuse.answers import VolumeAnswers
from keyvisor_guest.containers.fuse.protocol import Call, Malformed
from keyvisor_guest.containers.tar_layers import Kind

from ..archives import a_file, a_link, an_entry, reader

CONTENT = bytes(range(256)) * 100
SMALL = {name: (b"content of " + name) for name in (b"%03d" % number for number in range(300))}
XATTRS = {
    b"user.note": b"told",
    b"user.overlay.opaque": b"y",
    b"trusted.overlay.opaque": b"y",
    b"security.capability": bytes(20),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> VolumeReader:
    path = tmp_path_factory.mktemp("fuse") / "volume"
    made = Volume.create(path, UUID(int=3), 4096, 1024)
    made.apply(
        0,
        [
            an_entry("srv", Kind.DIRECTORY, mode=0o750, uid=7, gid=8),
            a_file(
                "srv/data",
                CONTENT,
                mode=0o4711,
                uid=1000,
                gid=2000,
                xattrs=tuple(XATTRS.items()),
                mtime=-1_500_000_000,
            ),
            a_link("srv/again", "srv/data"),
            an_entry("srv/link", Kind.SYMLINK, link=b"../srv/data"),
            an_entry("srv/tty", Kind.CHARACTER_DEVICE, device=(5, 1)),
            an_entry("many", Kind.DIRECTORY),
            *(a_file(b"many/" + name, data) for name, data in SMALL.items()),
        ],
    )
    return reader(path)


class Kernel:
    """Asks as the kernel does."""

    def __init__(self, answers: VolumeAnswers) -> None:
        self.answers = answers
        self.unique = 100

    def ask(self, call: int, node: int = 1, data: bytes = b"") -> tuple[int, bytes]:
        """(error, data)"""
        self.unique += 1
        header = struct.pack("=IIQQIIII", 40 + len(data), call, self.unique, node, 0, 0, 0, 0)
        told = self.answers.answer(header + data)
        assert told is not None
        length, error, unique = struct.unpack_from("=IiQ", told)
        assert (length, unique) == (len(told), self.unique)
        assert error <= 0
        assert not error or length == 16  # an error has no bytes
        return -error, told[16:]

    def find(self, *names: bytes) -> int:
        node = 1
        for name in names:
            error, data = self.ask(Call.LOOKUP, node, name + b"\0")
            assert error == 0
            node = struct.unpack_from("=Q", data)[0]
        return node

    def attributes(self, node: int) -> dict[str, int]:
        error, data = self.ask(Call.GETATTR, node, bytes(16))
        assert error == 0
        times = ("atime", "mtime", "ctime", "atimensec", "mtimensec", "ctimensec")
        names = ("ino", "size", "blocks", *times, "mode", "nlink", "uid", "gid", "rdev", "blksize")
        return dict(zip(names, struct.unpack_from("=QQQqqqIIIIIIIII", data, 16), strict=True))

    def read(self, node: int, offset: int, size: int, call: int = Call.READ) -> tuple[int, bytes]:
        return self.ask(call, node, struct.pack("=QQIIQII", 0, offset, size, 0, 0, 0, 0))

    def names(self, node: int, size: int) -> list[tuple[bytes, int, int]]:
        """All of a directory, in answers of at most `size` bytes: name, node, type."""
        found, offset = [], 0
        while True:
            error, data = self.read(node, offset, size, Call.READDIR)
            assert error == 0
            assert len(data) <= size
            if not data:
                return found
            at = 0
            while at < len(data):
                inode, offset, length, kind = struct.unpack_from("=QQII", data, at)
                found.append((data[at + 24 : at + 24 + length], inode, kind))
                at += (24 + length + 7) // 8 * 8


@pytest.fixture
def kernel(source: VolumeReader) -> Kernel:
    return Kernel(VolumeAnswers(source))


def test_a_file_as_it_was_built_but_for_its_owner(kernel: Kernel) -> None:
    node = kernel.find(b"srv", b"data")
    told = kernel.attributes(node)
    assert told["mode"] == stat.S_IFREG | 0o4711
    assert (told["size"], told["nlink"], told["uid"], told["gid"]) == (len(CONTENT), 2, 0, 0)
    assert (told["mtime"], told["mtimensec"]) == (-2, 500_000_000)
    assert kernel.find(b"srv", b"again") == node == told["ino"]
    assert kernel.read(node, 0, 1 << 20) == (0, CONTENT)
    assert kernel.read(node, 5000, 10) == (0, CONTENT[5000:5010])
    assert kernel.read(node, len(CONTENT), 10) == (0, b"")


def test_links_and_devices(kernel: Kernel) -> None:
    assert kernel.ask(Call.READLINK, kernel.find(b"srv", b"link")) == (0, b"../srv/data")
    assert kernel.ask(Call.READLINK, kernel.find(b"srv"))[0] == errno.EINVAL
    assert kernel.attributes(kernel.find(b"srv", b"tty"))["rdev"] == os.makedev(5, 1)


@pytest.mark.parametrize("size", [64, 300, 4096, 1 << 16])
def test_directories_in_pieces_of_any_size(kernel: Kernel, size: int) -> None:
    found = kernel.names(kernel.find(b"many"), size)
    assert [name for name, _, _ in found] == [b".", b"..", *sorted(SMALL)]
    for name, node, kind in found[2:20]:
        assert (kind, kernel.find(b"many", name)) == (stat.S_IFREG >> 12, node)
        assert kernel.read(node, 0, 4096) == (0, SMALL[name])


def test_what_is_not_there(kernel: Kernel) -> None:
    error, data = kernel.ask(Call.LOOKUP, 1, b"nothing\0")
    assert (error, struct.unpack_from("=QQQ", data)) == (0, (0, 0, protocol.FOREVER))
    assert kernel.ask(Call.LOOKUP, kernel.find(b"srv", b"data"), b"x\0")[0] == errno.ENOTDIR
    assert kernel.read(kernel.find(b"srv"), 0, 10)[0] == errno.EISDIR


def test_attributes_that_give_power_or_mean_something_above_are_not_told(kernel: Kernel) -> None:
    node = kernel.find(b"srv", b"data")
    assert kernel.ask(Call.LISTXATTR, node, struct.pack("=II", 4096, 0)) == (0, b"user.note\0")
    for name, value in XATTRS.items():
        error, told = kernel.ask(Call.GETXATTR, node, struct.pack("=II", 100, 0) + name + b"\0")
        assert (error, told) == ((0, value) if name == b"user.note" else (errno.ENODATA, b""))
    note = b"user.note\0"
    assert kernel.ask(Call.GETXATTR, node, bytes(8) + note) == (0, struct.pack("=II", 4, 0))
    assert kernel.ask(Call.GETXATTR, node, struct.pack("=II", 3, 0) + note)[0] == errno.ERANGE


def test_the_first_request(kernel: Kernel) -> None:
    for minor in (31, 45):
        error, data = kernel.ask(Call.INIT, 0, struct.pack("=IIII", 7, minor, 131072, 0xFFFFFFFF) + bytes(48))
        assert (error, len(data)) == (0, 64)
        assert struct.unpack_from("=III", data) == (7, 31, 131072)
    with pytest.raises(Malformed, match="older"):
        kernel.ask(Call.INIT, 0, struct.pack("=IIII", 7, 30, 0, 0))


@pytest.mark.parametrize("call", [4, 6, 8, 9, 10, 11, 12, 13, 16, 21, 24, 35, 43, 45, 999])
def test_what_would_write_there_is_no_call_for(kernel: Kernel, call: int) -> None:
    assert kernel.ask(call, 1, bytes(64))[0] == errno.ENOSYS


@pytest.mark.parametrize("error", [BlockRefused(14, 0), VolumeUnusable("damaged")])
def test_attack8_a_refused_block_is_EIO_wherever_it_is_met(source: VolumeReader, error: Exception) -> None:
    """In a file, in a directory, in an inode: whoever asks gets an error, and no byte."""
    refusing = False

    def read_at(offset: int, length: int) -> bytes:
        if refusing:
            raise error
        return source._read_at(offset, length)

    told: list[Exception] = []
    kernel = Kernel(VolumeAnswers(VolumeReader(read_at), told.append))
    directory, node = kernel.find(b"srv"), kernel.find(b"srv", b"data")
    refusing = True
    assert kernel.read(node, 0, 4096) == (errno.EIO, b"")
    assert kernel.ask(Call.LOOKUP, kernel.find(), b"many\0")[0] in (0, errno.EIO)
    assert kernel.ask(Call.GETATTR, 300, bytes(16)) == (errno.EIO, b"")
    assert told
    assert set(told) == {error}
    refusing = False
    assert kernel.read(node, 0, 1 << 20) == (0, CONTENT)
    assert kernel.names(directory, 4096)


@given(st.binary(max_size=100))
def test_no_bytes_make_it_fail_in_another_way(source: VolumeReader, data: bytes) -> None:
    answers = VolumeAnswers(source)
    for whole in (data, struct.pack("=I", len(data) + 4) + data):
        try:
            told = answers.answer(whole)
        except Malformed:
            continue
        assert told is None or len(told) == struct.unpack_from("=I", told)[0]


@given(st.sampled_from(sorted(Call)), st.integers(0, 2**64 - 1), st.binary(max_size=60))
def test_nor_does_any_request(source: VolumeReader, call: int, node: int, data: bytes) -> None:
    header = struct.pack("=IIQQIIII", 40 + len(data), call, 1, node, 0, 0, 0, 0)
    with contextlib.suppress(Malformed):
        VolumeAnswers(source).answer(header + data)


def test_an_error_has_a_number() -> None:
    """Positive numbers would be lengths to the kernel: it would take as many bytes from a buffer that nobody has filled."""
    for wrong in (0, -5):
        with pytest.raises(ValueError, match="above 0"):
            protocol.error_reply(1, wrong)
