"""Zstandard frames, inflated by the system's libzstd (RFC 8878): Python 3.11 has no decoder of its own.

Knows no files and no limits but the window's: the caller counts what comes out.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_int, c_size_t, c_uint, c_void_p
from functools import cache

from keyvisor_guest.containers.errors import ImageRefused, VolumeUnusable

__all__ = ["ZstdInflater"]

_WINDOW_LOG_MAX = 100  # ZSTD_d_windowLogMax


class _Input(Structure):
    _fields_ = (("src", c_void_p), ("size", c_size_t), ("pos", c_size_t))


class _Output(Structure):
    _fields_ = (("dst", c_void_p), ("size", c_size_t), ("pos", c_size_t))


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError as error:
        raise VolumeUnusable("no libzstd for a zstd layer: run `apt-get install libzstd1`") from error
    library.ZSTD_createDCtx.restype = c_void_p
    library.ZSTD_createDCtx.argtypes = ()
    library.ZSTD_freeDCtx.argtypes = (c_void_p,)
    library.ZSTD_DCtx_setParameter.restype = c_size_t
    library.ZSTD_DCtx_setParameter.argtypes = (c_void_p, c_int, c_int)
    library.ZSTD_decompressStream.restype = c_size_t
    library.ZSTD_decompressStream.argtypes = (c_void_p, POINTER(_Output), POINTER(_Input))
    library.ZSTD_isError.restype = c_uint
    library.ZSTD_isError.argtypes = (c_size_t,)
    library.ZSTD_getErrorName.restype = c_char_p
    library.ZSTD_getErrorName.argtypes = (c_size_t,)
    return library


class ZstdInflater:
    """Frames one behind the other. `finished` says whether the input ended with a frame's end."""

    def __init__(self, window_log: int, out_size: int) -> None:
        self._zstd = _library()
        self._context: int | None = self._zstd.ZSTD_createDCtx()
        if self._context is None:
            raise VolumeUnusable("libzstd has no memory for a zstd layer")
        self._check(self._zstd.ZSTD_DCtx_setParameter(self._context, _WINDOW_LOG_MAX, window_log))
        self._out = ctypes.create_string_buffer(out_size)
        self._rest = b""
        self.finished = True

    @property
    def hungry(self) -> bool:
        """Whether all input is used up: only then does `feed` take more."""
        return not self._rest

    def feed(self, data: bytes) -> None:
        """More input, after all of the last is used up."""
        self._rest = data

    def take(self) -> bytes:
        """At most `out_size` bytes more; b"" when it takes input for the next ones. Raises ImageRefused."""
        source = _Input(ctypes.cast(c_char_p(self._rest), c_void_p), len(self._rest), 0)
        target = _Output(ctypes.cast(self._out, c_void_p), len(self._out), 0)
        hint = self._zstd.ZSTD_decompressStream(self._context, ctypes.byref(target), ctypes.byref(source))
        self._check(hint)
        if source.pos or target.pos:
            self.finished = hint == 0
        self._rest = self._rest[source.pos :]
        return ctypes.string_at(self._out, target.pos)

    def close(self) -> None:
        """Gives the decoder's memory back."""
        self._zstd.ZSTD_freeDCtx(self._context)
        self._context = None

    def _check(self, code: int) -> None:
        if self._zstd.ZSTD_isError(code):
            said = self._zstd.ZSTD_getErrorName(code).decode("ascii", "replace")
            raise ImageRefused(
                f"a layer is no zstd stream that may be inflated ({said}): pull the image again"
            )
