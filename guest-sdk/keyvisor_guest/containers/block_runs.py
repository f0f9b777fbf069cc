"""Runs of blocks through C (block_loop.c) and the system's libcrypto: both loaded, a key set up, a run with each call.

Each call lets the interpreter go. Where there was no compiler, or there is no libcrypto of OpenSSL 3, `BlockRuns` says so.
Knows no layer and keeps no key: libcrypto has it, and wipes it with the worker's end.
"""

from __future__ import annotations

import ctypes
import enum
import weakref
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_int64, c_uint64, c_void_p
from pathlib import Path
from typing import Any, Final

from keyvisor_guest.containers.errors import CipherFailed
from keyvisor_guest.containers.limits import BLOCK

__all__ = [
    "ASSOCIATED_LENGTH",
    "LIBRARY",
    "RUN_BLOCKS",
    "BlockCipher",
    "BlockRuns",
    "BlockRunsMissing",
    "Room",
    "Worker",
]

LIBRARY: Final = Path(__file__).with_name("block_loop.so")
RUN_BLOCKS: Final = 64  # at most so many blocks are sealed or opened with one call
ASSOCIATED_LENGTH: Final = 52  # bytes: the additional data of all blocks, up to the block's number

_TAG: Final = 16
_CRYPTO: Final = "libcrypto.so.3"
# struct evp
_FUNCTIONS: Final = (
    "EVP_aes_256_gcm",
    "EVP_aes_256_xts",
    "EVP_CIPHER_CTX_new",
    "EVP_CIPHER_CTX_free",
    "EVP_CIPHER_CTX_copy",
    "EVP_CIPHER_CTX_ctrl",
    "EVP_CipherInit_ex",
    "EVP_CipherUpdate",
    "EVP_CipherFinal_ex",
    "OPENSSL_cleanse",
)
_INTERFACE: Final = 1  # grows with every change of a function's arguments
_LAYOUT: Final = _INTERFACE << 32 | len(_FUNCTIONS) * ctypes.sizeof(c_void_p)
_DONE: Final = -1


class BlockRunsMissing(Exception):
    """There are no compiled runs here; the text says why, and the way out."""


class BlockCipher(enum.IntEnum):
    """What a worker does (enum cipher)."""

    GCM = 0
    XTS = 1


_KEY_LENGTHS: Final = {BlockCipher.GCM: 32, BlockCipher.XTS: 64}


class Room:
    """Room for what comes out of a run. Kept, since new room is a page fault per block."""

    __slots__ = ("array", "view")

    def __init__(self) -> None:
        self.array = ctypes.create_string_buffer(RUN_BLOCKS * BLOCK)
        self.view = memoryview(self.array).cast("B")


class BlockRuns:
    """The library's functions, and libcrypto's that they call."""

    def __init__(self, path: Path = LIBRARY, crypto: str = _CRYPTO) -> None:
        """Raises BlockRunsMissing."""
        library = _loaded(
            str(path),
            "the compiled sealing of blocks is not built: install a C compiler and run `make setup` again",
        )
        cipher = _loaded(crypto, f"there is no {crypto}: run `apt-get install libssl3`")
        _require_layout(library)
        self._evp = (c_void_p * len(_FUNCTIONS))(*(_address(cipher, name) for name in _FUNCTIONS))
        self._new = _bound(library, "kv_blocks_new", c_void_p, c_void_p, c_int, c_int, c_char_p, c_char_p)
        self.copy = _bound(library, "kv_blocks_copy", c_void_p, c_void_p)
        self.free = _bound(library, "kv_blocks_free", None, c_void_p)
        run = (c_void_p, c_uint64, c_uint64, c_char_p)
        self.seal_gcm = _bound(library, "kv_seal_gcm", c_int64, *run, c_void_p, c_void_p)
        self.open_gcm = _bound(library, "kv_open_gcm", c_int64, *run, c_char_p, c_void_p)
        self.run_xts = _bound(library, "kv_run_xts", c_int64, *run, c_void_p)
        _try_out(self)

    def worker(self, cipher: BlockCipher, key: bytes, associated: bytes, *, seals: bool) -> Worker:
        """A key for one direction: 32 bytes for GCM, 64 for XTS. `associated` is GCM's. Raises CipherFailed."""
        if (len(key), len(associated)) != (_KEY_LENGTHS[cipher], ASSOCIATED_LENGTH):
            raise ValueError("a key or additional data of another length")
        return Worker(self, self._new(self._evp, cipher, seals, key, associated))


class Worker:
    """A key in one direction, for one thread at a time. Every method raises CipherFailed where libcrypto fails."""

    __slots__ = ("__weakref__", "_pointer", "_runs")

    def __init__(self, runs: BlockRuns, pointer: int | None) -> None:
        if not pointer:
            raise _failed()
        self._runs, self._pointer = runs, pointer
        # Not at the interpreter's end: a thread may still be inside, and the process ends anyway.
        weakref.finalize(self, runs.free, pointer).atexit = False

    def copy(self) -> Worker:
        """The same for another thread."""
        return Worker(self._runs, self._runs.copy(self._pointer))

    def seal_gcm(self, first: int, plain: bytes, room: Room) -> bytes:
        """Blocks from number `first` on into `room`; their tags."""
        count = _count(first, plain)
        tags = ctypes.create_string_buffer(count * _TAG)
        _require_done(self._runs.seal_gcm(self._pointer, first, count, plain, room.array, tags))
        return tags.raw

    def open_gcm(self, first: int, stored: bytes, tags: bytes, room: Room) -> int | None:
        """Blocks in clear into `room`; None, or the index of the first that is not what was sealed at its place.

        Of that one and those behind it nothing is in the room.
        """
        count = _count(first, stored)
        if len(tags) != count * _TAG:
            raise ValueError("not as many tags as blocks")
        found: int = self._runs.open_gcm(self._pointer, first, count, stored, tags, room.array)
        if found >= 0:
            return found
        _require_done(found)
        return None

    def run_xts(self, first: int, data: bytes, room: Room) -> None:
        """Blocks into `room`, sealed or in clear as the worker was made."""
        _require_done(self._runs.run_xts(self._pointer, first, _count(first, data), data, room.array))


def _count(first: int, data: bytes) -> int:
    """How many blocks; C believes what it is told, so nothing else is told. Raises ValueError for what is no run."""
    count, rest = divmod(len(data), BLOCK)
    if rest or count > RUN_BLOCKS or not 0 <= first <= 2**64 - RUN_BLOCKS:
        raise ValueError(f"a run has up to {RUN_BLOCKS} whole blocks")
    return count


def _require_done(outcome: int) -> None:
    if outcome != _DONE:
        raise _failed()


def _failed() -> CipherFailed:
    return CipherFailed("libcrypto did not do what was asked of it: free memory, and try again")


def _try_out(runs: BlockRuns) -> None:
    """What cannot be learnt from a version: whether this libcrypto copies a key that is set up, and does as it says."""
    room, back = Room(), Room()
    plain, associated = bytes(2 * BLOCK), bytes(ASSOCIATED_LENGTH)
    try:
        for cipher, length in _KEY_LENGTHS.items():
            one, other = (
                runs.worker(cipher, bytes(range(length)), associated, seals=seals) for seals in (True, False)
            )
            one, other = one.copy(), other.copy()
            if cipher is BlockCipher.XTS:
                one.run_xts(3, plain, room)
                other.run_xts(3, bytes(room.view[: len(plain)]), back)
            else:
                tags = one.seal_gcm(3, plain, room)
                other.open_gcm(3, bytes(room.view[: len(plain)]), tags, back)
            if back.view[: len(plain)] != plain or room.view[:BLOCK] == room.view[BLOCK : 2 * BLOCK]:
                raise _failed()
    except CipherFailed:
        raise BlockRunsMissing(
            f"the system's {_CRYPTO} lacks what is needed: install a newer release of libssl3"
        ) from None


def _loaded(name: str, otherwise: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name)
    except OSError:
        raise BlockRunsMissing(otherwise) from None


def _require_layout(library: ctypes.CDLL) -> None:
    if _bound(library, "kv_blocks_layout", c_uint64)() != _LAYOUT:
        raise _of_another_release()


def _bound(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function = getattr(library, name, None)
    if function is None:
        raise _of_another_release()
    function.restype, function.argtypes = result, arguments
    bound: Callable[..., Any] = function
    return bound


def _of_another_release() -> BlockRunsMissing:
    return BlockRunsMissing("the compiled sealing of blocks is of another release: run `make setup` again")


def _address(library: ctypes.CDLL, name: str) -> int:
    function = getattr(library, name, None)
    if function is None:
        raise BlockRunsMissing(f"the system's {_CRYPTO} has no {name}: install libssl3 of OpenSSL 3")
    address = ctypes.cast(function, c_void_p).value
    if address is None:
        raise BlockRunsMissing(f"the system's {_CRYPTO} has no {name}: install libssl3 of OpenSSL 3")
    return address
