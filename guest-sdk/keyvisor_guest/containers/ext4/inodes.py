"""The on-disk form of ext4 that we write and read: inodes, times, device numbers (kernel, ext4 layout).

Pure: bytes in, values out, little-endian as ext4 is. Knows no volume.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from typing import Final

from keyvisor_guest.containers.errors import VolumeUnusable

__all__ = [
    "INODE_SIZE",
    "ROOT",
    "Inode",
    "clear_in_inode",
    "file_type",
    "new_inode",
    "set_links",
    "set_metadata",
]

INODE_SIZE: Final = 256
ROOT: Final = 2
EXTENTS: Final = 0x80000  # EXT4_EXTENTS_FL
EXTENT_MAGIC: Final = 0xF30A
_EXTRA: Final = 32  # i_extra_isize: up to i_projid
_BASE = struct.Struct("<HHIIIIIHHII4s60sIIII")  # up to i_faddr, 116 bytes
_OS = struct.Struct("<HHHHHH")  # l_i_blocks_hi ... l_i_reserved, 12 bytes
_LARGE = struct.Struct("<HHIIIIIII")  # i_extra_isize ... i_projid, 32 bytes

# The kernel keeps 34 bits of seconds, but e2fsck takes the last epoch with its sign bit set for a mistake of old kernels.
_EARLIEST: Final = -(2**31)
_LATEST: Final = 2 * 2**32 + 2**31 - 1
_BILLION: Final = 1_000_000_000

_FILE_TYPES: Final = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}


@dataclass(frozen=True, slots=True)
class Inode:
    """An inode as it is read. `mode` has the type's bits; times in nanoseconds since 1970; `blocks` in units of 512 bytes."""

    mode: int
    uid: int
    gid: int
    size: int
    links: int
    mtime: int
    flags: int
    blocks: int
    block_map: bytes  # i_block: extents, the target of a short symlink, or a device number
    acl_block: int
    in_inode: bytes  # behind the fields: extended attributes

    @classmethod
    def parse(cls, raw: bytes | bytearray) -> Inode:
        """From at least 160 bytes of the inode table. Raises VolumeUnusable."""
        mode, uid, size, _, _, mtime, _, gid, links, blocks, flags, _, block_map, _, acl, size_high, _ = (
            _BASE.unpack_from(raw)
        )
        blocks_high, acl_high, uid_high, gid_high, _, _ = _OS.unpack_from(raw, 116)
        extra, _, _, mtime_extra, *_ = _LARGE.unpack_from(raw, 128)
        if not _LARGE.size <= extra <= len(raw) - 128:
            raise VolumeUnusable("an inode of the volume is damaged: verify the image")
        return cls(
            mode=mode,
            uid=uid | uid_high << 16,
            gid=gid | gid_high << 16,
            size=size | size_high << 32,
            links=links,
            mtime=_time(mtime, mtime_extra),
            flags=flags,
            blocks=blocks | blocks_high << 32,
            block_map=block_map,
            acl_block=acl | acl_high << 32,
            in_inode=bytes(raw[128 + extra :]),
        )

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symlink."""
        return stat.S_ISLNK(self.mode)

    @property
    def device(self) -> tuple[int, int]:
        """Major and minor number of a device."""
        old, new = struct.unpack_from("<II", self.block_map)
        if old:
            return old >> 8 & 0xFF, old & 0xFF
        return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00


def new_inode(mode: int, device: tuple[int, int] = (0, 0)) -> bytearray:
    """An inode with one link and nothing in it; `mode` has the type's bits."""
    block_map, flags = b"", 0
    if stat.S_ISREG(mode):
        # An empty extent tree: magic, entries, room for 4, depth, generation.
        block_map, flags = struct.pack("<HHHHI", EXTENT_MAGIC, 0, 4, 0, 0), EXTENTS
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        block_map = _device(*device)
    inode = bytearray(INODE_SIZE)
    _BASE.pack_into(inode, 0, mode, 0, 0, 0, 0, 0, 0, 0, 1, 0, flags, b"", block_map, 0, 0, 0, 0)
    struct.pack_into("<H", inode, 128, _EXTRA)
    return inode


def set_metadata(inode: bytearray, mode: int, uid: int, gid: int, mtime: int) -> None:
    """Permission bits, owner and all four times, in place; the type stays. `mtime` in nanoseconds since 1970.

    A time that ext4 cannot keep becomes the nearest that it can, as the kernel does.
    """
    kind = stat.S_IFMT(struct.unpack_from("<H", inode)[0])
    struct.pack_into("<HH", inode, 0, kind | mode & 0o7777, uid & 0xFFFF)
    struct.pack_into("<H", inode, 24, gid & 0xFFFF)
    struct.pack_into("<HH", inode, 120, uid >> 16, gid >> 16)
    seconds, nanoseconds = divmod(mtime, _BILLION)
    if not _EARLIEST <= seconds <= _LATEST:
        seconds, nanoseconds = min(max(seconds, _EARLIEST), _LATEST), 0
    low = seconds & 0xFFFFFFFF
    epoch = (seconds - (low - (low >> 31 << 32))) >> 32
    extra = nanoseconds << 2 | epoch
    struct.pack_into("<III", inode, 8, low, low, low)
    struct.pack_into("<H", inode, 128, _EXTRA)
    struct.pack_into("<IIIII", inode, 132, extra, extra, extra, low, extra)


def set_links(inode: bytearray, links: int) -> None:
    """The count of names that lead to it, in place."""
    struct.pack_into("<H", inode, 26, links)


def clear_in_inode(inode: bytearray) -> None:
    """Takes the extended attributes out that stand in the inode itself, in place."""
    start = 128 + struct.unpack_from("<H", inode, 128)[0]
    inode[start:] = bytes(len(inode) - start)


def file_type(mode: int) -> int:
    """What a directory entry says of the type."""
    return _FILE_TYPES[stat.S_IFMT(mode)]


def _time(low: int, extra: int) -> int:
    seconds = low - (low >> 31 << 32) + ((extra & 3) << 32)
    return seconds * _BILLION + (extra >> 2)


def _device(major: int, minor: int) -> bytes:
    """The old form where both fit a byte, else the new one in the second slot (secure-containers, 1.3)."""
    if major < 256 and minor < 256:
        return struct.pack("<I", major << 8 | minor)
    return struct.pack("<II", 0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12)
