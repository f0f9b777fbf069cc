"""Inodes to the byte, as ext4 has them."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import VolumeUnusable
from keyvisor_guest.containers.ext4.inodes import (
    INODE_SIZE,
    Inode,
    clear_in_inode,
    file_type,
    new_inode,
    set_links,
    set_metadata,
)


def test_an_empty_file_to_the_byte() -> None:
    inode = new_inode(stat.S_IFREG)
    set_metadata(inode, 0o4755, 0x12345678, 0x9ABCDEF0, 0x1_0000_0002 * 10**9 + 3)
    assert len(inode) == INODE_SIZE
    times = "02000000" * 3
    assert (
        inode[:40].hex()
        == "ed897856" + "00000000" + times + "00000000" + "f0de0100" + "00000000" + "00000800" + "00000000"
    )
    assert inode[40:52].hex() == "0af300000400000000000000"
    assert inode[120:124].hex() == "3412bc9a"
    assert inode[128:152].hex() == "20000000" + "0d000000" * 3 + "02000000" + "0d000000"


@given(
    st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO]),
    st.integers(0, 0o7777),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(-(2**31) * 10**9, (2 * 2**32 + 2**31 - 1) * 10**9),
    st.integers(0, 65_000),
)
def test_what_is_set_is_read(kind: int, mode: int, uid: int, gid: int, mtime: int, links: int) -> None:
    raw = new_inode(kind)
    set_metadata(raw, mode, uid, gid, mtime)
    set_links(raw, links)
    inode = Inode.parse(raw)
    assert (inode.mode, inode.uid, inode.gid, inode.mtime, inode.links) == (
        kind | mode,
        uid,
        gid,
        mtime,
        links,
    )


@given(st.integers(0, 4095), st.integers(0, 2**20 - 1))
def test_device_numbers(major: int, minor: int) -> None:
    assert Inode.parse(new_inode(stat.S_IFCHR, (major, minor))).device == (major, minor)


def test_attributes_in_the_inode_are_cleared_and_nothing_else() -> None:
    raw = new_inode(stat.S_IFREG)
    raw[160:] = b"\xff" * 96
    before = bytes(raw[:160])
    clear_in_inode(raw)
    assert bytes(raw) == before + bytes(96)


def test_file_types_are_the_directorys() -> None:
    kinds = [
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFCHR,
        stat.S_IFBLK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
        stat.S_IFLNK,
    ]
    assert [file_type(kind | 0o644) for kind in kinds] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("extra", [0, 31, 129, 65535])
def test_an_inode_of_another_size_is_damaged(extra: int) -> None:
    raw = new_inode(stat.S_IFREG)
    raw[128:130] = extra.to_bytes(2, "little")
    with pytest.raises(VolumeUnusable, match="damaged"):
        Inode.parse(raw)
