"""Ramdisks: packed the same each time, unpacked strictly, and a policy found where it counts or refused."""

import contextlib
import gzip
import lzma
import shutil
import stat
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.wire import initrd
from keyvisor_guest.wire.errors import Malformed, Unbuildable
from keyvisor_guest.wire.initrd import POLICY_PATHS, Entry, find_policy, pack, unpack

FILE = stat.S_IFREG | 0o640
DIRECTORY = stat.S_IFDIR | 0o755
LINK = stat.S_IFLNK | 0o777
TREE = [
    Entry("etc", stat.S_IFDIR | 0o700),
    Entry("etc/hostname", FILE, b"payments\n"),
    Entry("init", stat.S_IFREG | 0o755, b"#!/bin/sh\n"),
    Entry("sbin", LINK, b"usr/sbin"),
]


def record(name=b"f\x00", content=b"", mode=FILE, links=1, size=None, name_size=None, magic=b"070701"):
    """One entry, as good or bad as its arguments."""
    fields = [1, mode, 0, 0, links, 0, len(content) if size is None else size, 0, 0, 0, 0]
    fields += [len(name) if name_size is None else name_size, 0]
    head = magic + b"".join(b"%08X" % value for value in fields) + name
    return head.ljust(-(-len(head) // 4) * 4, b"\x00") + content.ljust(-(-len(content) // 4) * 4, b"\x00")


END = record(b"TRAILER!!!\x00", mode=0)


def test_a_tree_comes_back():
    assert list(unpack(pack(TREE))) == TREE
    assert pack(reversed(TREE)) == pack(TREE)
    assert unpack(pack(TREE) + bytes(4000)) == unpack(pack(TREE))


def test_directories_are_made_where_they_are_missing():
    assert [(one.path, one.mode) for one in unpack(pack([Entry("a/b/c", FILE, b"x")]))] == [
        ("a", DIRECTORY),
        ("a/b", DIRECTORY),
        ("a/b/c", FILE),
    ]


NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="/"), min_size=1
)
PATHS = st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=4).map("/".join)


@given(files=st.dictionaries(PATHS, st.binary(max_size=40), max_size=8))
def test_whatever_is_packed_is_unpacked(files):
    entries = [Entry(path, FILE, content) for path, content in files.items()]
    try:
        data = pack(entries)
    except Unbuildable:
        return  # a file below a file, or a name that cannot be printed
    found = {one.path: one.content for one in unpack(data) if stat.S_ISREG(one.mode)}
    assert found == files


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_the_real_cpio_reads_it_and_is_read(tmp_path):
    (tmp_path / "mine").write_bytes(pack(TREE))
    listed = subprocess.run(
        ["cpio", "--list", "--quiet", "-F", tmp_path / "mine"], capture_output=True, text=True, check=True
    )
    assert listed.stdout.split() == [one.path for one in TREE]
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/pvapconfig.yaml").write_text("[]\n")
    (tree / "link").symlink_to("etc")
    made = subprocess.run(
        ["cpio", "--create", "--quiet", "--format=newc"],
        input=b".\netc\netc/pvapconfig.yaml\nlink\n",
        cwd=tree,
        capture_output=True,
        check=True,
    ).stdout
    for data in (made, gzip.compress(made)):
        entries = unpack(data)
        assert [one.path for one in entries] == [".", "etc", "etc/pvapconfig.yaml", "link"]
        assert find_policy(entries).content == b"[]\n"


def test_a_ramdisk_that_is_no_archive_has_no_tree():
    for data in (b"", b"\x00" * 512, b"07070", b"any file\n"):
        assert unpack(data) is None
    assert unpack(gzip.compress(b"any file\n")) is None


def test_what_another_program_packed_is_not_taken_for_nothing():
    for data, name in (
        (lzma.compress(b"x"), "xz"),
        (b"\x28\xb5\x2f\xfd....", "zstd"),
        (b"BZh9....", "bzip2"),
        (record(magic=b"070702"), "checksums"),
    ):
        with pytest.raises(Malformed, match=name):
            unpack(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (record(), "70|needed"),
        (record() + b"070702" + END[6:], "does not begin with 070701"),
        (record(b"/f\x00") + END, "leads out of its tree"),
        (record(b"a/../f\x00") + END, "leads out of its tree"),
        (record(b"../f\x00") + END, "leads out of its tree"),
        (record(b"a//f\x00") + END, "second way"),
        (record(b"a/./f\x00") + END, "second way"),
        (record(b"a/\x00") + END, "second way"),
        (record(b"f\x00g\x00") + END, "control characters"),
        (record(b"ff") + END, "control characters"),
        (record(b"f\n\x00") + END, "control characters"),
        (record(b"\xff\x00") + END, "not UTF-8"),
        (record(name_size=0) + END, "a path in the ramdisk has 0 bytes"),
        (record(name_size=0xFFFFFFFF) + END, "a path in the ramdisk has"),
        (record(size=0xFFFFFFFF) + END, "are needed"),
        (record() + record() + END, "`/f` is in the ramdisk twice"),
        (record() + record(b"./f\x00") + END, "twice"),
        (record() + record(b"f/g\x00") + END, "below what is no directory"),
        (record(mode=LINK, content=b"etc") + record(b"f/g\x00") + END, "below what is no directory"),
        (record(links=2) + END, "hard link"),
        (record() + END + record(), "more follows"),
        (record() + END + b"\x01", "more follows"),
        (record().replace(b"00000001", b"0000000x", 1) + END, "no number of 8 hex digits"),
        (record().replace(b"00000001", b"+0000001", 1) + END, "no number of 8 hex digits"),
        (gzip.compress(END)[:-9], "gzip"),
        (b"\x1f\x8brubbish", "begins like gzip"),
        (bytes(4) + record() + END, "zeros stand before"),
        (bytes(512) + gzip.compress(record() + END), "zeros stand before"),
        (bytes(4) + lzma.compress(record() + END), "zeros stand before"),
        (gzip.compress(bytes(4) + record() + END), "zeros stand before"),
        (gzip.compress(END) + gzip.compress(END), "more follows the ramdisk's gzip"),
    ],
)
def test_an_archive_is_one_from_start_to_end(data, said):
    with pytest.raises(Malformed, match=said):
        unpack(data)


def test_limits_are_held_before_anything_is_kept(monkeypatch):
    monkeypatch.setattr(initrd, "MAX_ENTRIES", 3)
    with pytest.raises(Malformed, match="more than 3 entries"):
        unpack(b"".join(record(b"f%d\x00" % n) for n in range(4)) + END)
    with pytest.raises(Unbuildable, match="at most 3 entries"):
        pack(TREE)
    monkeypatch.setattr(initrd, "MAX_TREE", 1000)
    with pytest.raises(Malformed, match="unpacks to more than 1000 bytes"):
        unpack(gzip.compress(bytes(5000)))
    with pytest.raises(Unbuildable, match="at most 1000 bytes"):
        pack([Entry("f", FILE, bytes(1001))])


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([Entry("/f", FILE)], "no path of a file tree"),
        ([Entry("a/../f", FILE)], "no path of a file tree"),
        ([Entry("", FILE)], "no path of a file tree"),
        ([Entry("TRAILER!!!", FILE)], "no path of a file tree"),
        ([Entry("a\nb", FILE)], "no path of a file tree"),
        ([Entry("a" * 4096, FILE)], "at most 4095 bytes"),
        ([Entry("f", FILE), Entry("f", FILE)], "twice"),
        ([Entry("f", FILE), Entry("f/g", FILE)], "no directory"),
        ([Entry("f", stat.S_IFSOCK)], "no file, directory or link"),
    ],
)
def test_what_is_no_tree_is_not_packed(entries, said):
    with pytest.raises(Unbuildable, match=said):
        pack(entries)


def test_the_first_of_the_policys_places_counts():
    ours, theirs = (Entry(path, FILE, path.encode()) for path in POLICY_PATHS)
    assert find_policy([ours, theirs]) == find_policy([theirs, ours]) == ours
    assert find_policy([theirs]) == theirs
    assert find_policy(TREE) is None
    assert find_policy([]) is None


def test_a_policy_that_is_no_file_is_refused_and_not_passed_over():
    """A link there, or above, would lead a guest to what is not looked at here."""
    ours = POLICY_PATHS[0]
    for entry in (
        Entry(ours, LINK, b"/tmp/other.yaml"),
        Entry(ours, DIRECTORY),
        Entry("etc/keyvisor", LINK, b"/tmp"),
        Entry("etc", LINK, b"usr/etc"),
    ):
        with pytest.raises(Malformed, match="in the ramdisk is no"):
            find_policy([entry])


@given(data=st.binary(max_size=300))
def test_part3_T14_bytes_that_are_no_archive_raise_nothing_but_malformed(data):
    for text in (data, b"070701" + data, record() + data, b"\x1f\x8b\x08\x00" + data):
        with contextlib.suppress(Malformed):
            unpack(text)


@given(at=st.integers(0, len(pack(TREE)) - 1), byte=st.integers(0, 255))
def test_part3_T14_a_changed_byte_of_an_archive_raises_nothing_but_malformed(at, byte):
    data = pack(TREE)
    with contextlib.suppress(Malformed):
        unpack(data[:at] + bytes([byte]) + data[at + 1 :])
