"""The system's libext2fs, as few of its functions as a volume needs, typed (libext2fs manual, e2fsprogs 1.47).

A handle is opaque: no field of `ext2_filsys` is ever read or written, only the on-disk form of inodes goes through. Knows no
paths and no layers.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_char_p, c_int, c_long, c_uint, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Final

from keyvisor_guest.containers.errors import ImageRefused, Refusal, VolumeUnusable
from keyvisor_guest.containers.ext4.inodes import INODE_SIZE
from keyvisor_guest.containers.limits import BLOCK

__all__ = ["Filesystem"]

_ERROR_BASE: Final = 2133571328
_BLOCK_ALLOC_FAIL: Final = _ERROR_BASE + 72
_INODE_ALLOC_FAIL: Final = _ERROR_BASE + 73
_EA_NO_SPACE: Final = _ERROR_BASE + 163

_OPEN_WRITABLE: Final = 0x01 | 0x20000  # EXT2_FLAG_RW | EXT2_FLAG_64BITS
_FILE_WRITE: Final = 1  # EXT2_FILE_WRITE
_ALL_BLOCKS: Final = 2**64 - 1

_HANDLE = c_void_p
_INO = c_uint32
# Function, its arguments. All give an errcode_t but the two that are named below.
_SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "ext2fs_open2": (c_char_p, c_char_p, c_int, c_int, c_uint, c_void_p, POINTER(_HANDLE)),
    "ext2fs_read_bitmaps": (_HANDLE,),
    "ext2fs_close_free": (POINTER(_HANDLE),),
    "ext2fs_new_inode": (_HANDLE, _INO, c_int, c_void_p, POINTER(_INO)),
    "ext2fs_inode_alloc_stats2": (_HANDLE, _INO, c_int, c_int),
    "ext2fs_read_inode_full": (_HANDLE, _INO, c_void_p, c_int),
    "ext2fs_write_inode_full": (_HANDLE, _INO, c_void_p, c_int),
    "ext2fs_mkdir": (_HANDLE, _INO, _INO, c_char_p),
    "ext2fs_symlink": (_HANDLE, _INO, _INO, c_char_p, c_char_p),
    "ext2fs_expand_dir": (_HANDLE, _INO),
    "ext2fs_bmap2": (_HANDLE, _INO, c_void_p, c_char_p, c_int, c_uint64, c_void_p, POINTER(c_uint64)),
    "ext2fs_read_dir_block4": (_HANDLE, c_uint64, c_void_p, c_int, _INO),
    "ext2fs_write_dir_block4": (_HANDLE, c_uint64, c_void_p, c_int, _INO),
    "ext2fs_inode_has_valid_blocks2": (_HANDLE, c_void_p),
    "ext2fs_punch": (_HANDLE, _INO, c_void_p, c_char_p, c_uint64, c_uint64),
    "ext2fs_free_ext_attr": (_HANDLE, _INO, c_void_p),
    "ext2fs_file_open2": (_HANDLE, _INO, c_void_p, c_int, POINTER(_HANDLE)),
    "ext2fs_file_llseek": (_HANDLE, c_uint64, c_int, POINTER(c_uint64)),
    "ext2fs_file_read": (_HANDLE, c_void_p, c_uint, POINTER(c_uint)),
    "ext2fs_file_write": (_HANDLE, c_char_p, c_uint, POINTER(c_uint)),
    "ext2fs_file_set_size2": (_HANDLE, c_uint64),
    "ext2fs_file_close": (_HANDLE,),
    "ext2fs_xattrs_open": (_HANDLE, _INO, POINTER(_HANDLE)),
    "ext2fs_xattrs_read": (_HANDLE,),
    "ext2fs_xattr_set": (_HANDLE, c_char_p, c_char_p, ctypes.c_size_t),
    "ext2fs_xattrs_close": (POINTER(_HANDLE),),
}
_NO_ERRCODE: Final[dict[str, Any]] = {
    "ext2fs_inode_alloc_stats2": None,
    "ext2fs_inode_has_valid_blocks2": c_int,
}

# What a person can do about an error; all others are told as the library tells them.
_REFUSALS: Final = {
    _BLOCK_ALLOC_FAIL: "the image does not fit the volume: build it with a larger --size",
    _INODE_ALLOC_FAIL: "the image has more files than the volume has inodes: build it with a larger --size",
    _EA_NO_SPACE: "the extended attributes of a file do not fit its inode and one block: give it fewer or shorter ones",
}

_fake_time_lock = Lock()


@cache
def _library() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    try:
        errors = ctypes.CDLL("libcom_err.so.2")
        library = ctypes.CDLL("libext2fs.so.2")
    except OSError as error:
        raise VolumeUnusable("no libext2fs to make volumes with: run `apt-get install e2fsprogs`") from error
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = _NO_ERRCODE.get(name, c_long)
    errors.error_message.argtypes = (c_long,)
    errors.error_message.restype = c_char_p
    library.initialize_ext2_error_table()
    return library, errors


@contextmanager
def _fake_time(seconds: int) -> Iterator[None]:
    """The library takes what time it is from the environment, once, when it opens a volume (secure-containers, 1.2)."""
    with _fake_time_lock:
        before = os.environ.get("E2FSPROGS_FAKE_TIME")
        os.environ["E2FSPROGS_FAKE_TIME"] = str(seconds)
        try:
            yield
        finally:
            if before is None:
                del os.environ["E2FSPROGS_FAKE_TIME"]
            else:
                os.environ["E2FSPROGS_FAKE_TIME"] = before


class Filesystem:
    """One volume opened to be written. Numbers of inodes are the volume's.

    Each method raises ImageRefused when the volume is full, and VolumeUnusable for every other error of the library.
    """

    def __init__(self, path: Path, now: int) -> None:
        """Opens the volume in the file at `path`; `now` (seconds, > 0) is what its superblock will have for a time."""
        self._library, self._errors = _library()
        self._handle = _HANDLE()
        manager = c_void_p.in_dll(self._library, "unix_io_manager")
        with _fake_time(now):
            # Options that are given, if empty, keep the library from looking for some in the name.
            self._call(
                "ext2fs_open2", os.fsencode(path), b"", _OPEN_WRITABLE, 0, 0, manager, byref(self._handle)
            )
        self._call("ext2fs_read_bitmaps", self._handle)

    def close(self) -> None:
        """Writes what is not written yet, and gives the volume back."""
        self._call("ext2fs_close_free", byref(self._handle))

    def allocate_inode(self, near: int, mode: int) -> int:
        """The number of a free inode, which is not taken yet."""
        number = _INO()
        self._call("ext2fs_new_inode", self._handle, near, mode, None, byref(number))
        return number.value

    def count_inode(self, number: int, change: int, *, directory: bool) -> None:
        """Takes an inode (+1) or frees it (-1)."""
        self._library.ext2fs_inode_alloc_stats2(self._handle, number, change, directory)

    def read_inode(self, number: int) -> bytearray:
        """The 256 bytes of an inode as they are on disk."""
        inode = bytearray(INODE_SIZE)
        self._call("ext2fs_read_inode_full", self._handle, number, _in_place(inode), INODE_SIZE)
        return inode

    def write_inode(self, number: int, inode: bytearray) -> None:
        """Writes the 256 bytes of an inode; the library puts the checksum in."""
        self._call("ext2fs_write_inode_full", self._handle, number, _in_place(inode), INODE_SIZE)

    def make_directory(self, parent: int, number: int) -> None:
        """Makes inode `number` an empty directory that no name leads to yet; `parent` has one link more."""
        self._call("ext2fs_mkdir", self._handle, parent, number, None)

    def make_symlink(self, parent: int, number: int, target: bytes) -> None:
        """Makes inode `number` a symlink that no name leads to yet."""
        self._call("ext2fs_symlink", self._handle, parent, number, None, target)

    def expand_directory(self, directory: int) -> None:
        """One block more, without names."""
        self._call("ext2fs_expand_dir", self._handle, directory)

    def read_directory_block(self, directory: int, index: int) -> bytearray:
        """A directory's block number `index`; the library checks its checksum."""
        block = bytearray(BLOCK)
        self._call(
            "ext2fs_read_dir_block4",
            self._handle,
            self._place(directory, index),
            _in_place(block),
            0,
            directory,
        )
        return block

    def write_directory_block(self, directory: int, index: int, block: bytearray) -> None:
        """Writes a directory's block; the library puts the checksum in."""
        self._call(
            "ext2fs_write_dir_block4",
            self._handle,
            self._place(directory, index),
            _in_place(block),
            0,
            directory,
        )

    def free_content(self, number: int, inode: bytearray) -> None:
        """Frees the blocks of an inode: its data, and its extended attributes."""
        self.free_attributes(number, inode)
        if self._library.ext2fs_inode_has_valid_blocks2(self._handle, _in_place(inode)):
            self._call("ext2fs_punch", self._handle, number, _in_place(inode), None, 0, _ALL_BLOCKS)

    def free_attributes(self, number: int, inode: bytearray) -> None:
        """Frees the block of an inode's extended attributes, where it has one."""
        self._call("ext2fs_free_ext_attr", self._handle, number, _in_place(inode))

    def read_file(self, number: int, size: int) -> bytes:
        """The first `size` bytes of a file's or a directory's data."""
        file = self._open_file(number, 0)
        try:
            data, got = ctypes.create_string_buffer(size), c_uint()
            self._call("ext2fs_file_read", file, data, size, byref(got))
            return data.raw[: got.value]
        finally:
            self._call("ext2fs_file_close", file)

    def write_file(self, number: int, pieces: Iterator[tuple[int, bytes]], size: int) -> None:
        """Writes pieces, each at its offset in bytes; what lies between and behind them up to `size` is a hole."""
        file = self._open_file(number, _FILE_WRITE)
        try:
            position, done = 0, c_uint()
            for offset, piece in pieces:
                if offset != position:
                    self._call("ext2fs_file_llseek", file, offset, os.SEEK_SET, None)
                self._call("ext2fs_file_write", file, piece, len(piece), byref(done))
                position = offset + len(piece)
            if position != size:
                self._call("ext2fs_file_set_size2", file, size)
        finally:
            self._call("ext2fs_file_close", file)

    def set_xattrs(self, number: int, xattrs: tuple[tuple[bytes, bytes], ...]) -> None:
        """Sets extended attributes by their full names; ACLs in the kernel's form (version 2)."""
        handle = _HANDLE()
        self._call("ext2fs_xattrs_open", self._handle, number, byref(handle))
        try:
            self._call("ext2fs_xattrs_read", handle)
            for name, value in xattrs:
                self._call("ext2fs_xattr_set", handle, name, value, len(value))
        finally:
            self._call("ext2fs_xattrs_close", byref(handle))

    def _open_file(self, number: int, flags: int) -> c_void_p:
        file = _HANDLE()
        self._call("ext2fs_file_open2", self._handle, number, None, flags, byref(file))
        return file

    def _place(self, number: int, index: int) -> int:
        """The block of the volume that is a file's block number `index`."""
        place = c_uint64()
        self._call("ext2fs_bmap2", self._handle, number, None, None, 0, index, None, byref(place))
        return place.value

    def _try(self, function: str, *arguments: object) -> int:
        code: int = getattr(self._library, function)(*arguments)
        return code

    def _call(self, function: str, *arguments: object) -> None:
        self._check(self._try(function, *arguments))

    def _check(self, code: int) -> None:
        if code in _REFUSALS:
            raise ImageRefused(_REFUSALS[code], Refusal.LIMIT)
        if code:
            said = self._errors.error_message(code).decode("utf-8", "replace").lower()
            raise VolumeUnusable(
                f"libext2fs failed on the volume ({said}): make it again, with room on the disk"
            )


def _in_place(inode: bytearray) -> Any:
    return (ctypes.c_char * len(inode)).from_buffer(inode)
