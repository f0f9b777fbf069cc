"""The ciphers over runs of blocks: one call of Python per block, or one of C per run where that is compiled.

Both give the same bytes and refuse the same (secure-containers, 2.1, 6.1). Knows no layer: a key, and what is bound to each block
beside its number, come in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS

from keyvisor_guest.containers.block_runs import (
    ASSOCIATED_LENGTH,
    RUN_BLOCKS,
    BlockCipher,
    BlockRuns,
    BlockRunsMissing,
    Room,
    Worker,
)
from keyvisor_guest.containers.limits import BLOCK

__all__ = ["IN_PYTHON", "BadBlock", "GcmRunner", "Runners", "XtsRunner", "best_runners", "in_c"]

_TAG: Final = 16
_MARGIN: Final = 16  # a GCM tag behind the last block; what XTS wants beyond what it writes


class BadBlock(Exception):
    """The block with this number is not what was sealed at its place."""

    def __init__(self, block: int) -> None:
        super().__init__(f"block {block}")
        self.block = block


class GcmRunner(Protocol):
    """AES-256-GCM with one key. `first` is the number of the first of up to RUN_BLOCKS blocks."""

    def seal(self, first: int, plain: bytes) -> tuple[memoryview, bytes]:
        """The blocks encrypted (good until the next call), and their tags."""
        ...

    def open(self, first: int, stored: bytes, tags: bytes) -> bytes:
        """The blocks in clear; from several threads at once. Raises BadBlock."""
        ...


class XtsRunner(Protocol):
    """AES-256-XTS with one key, likewise."""

    def seal(self, first: int, plain: bytes) -> memoryview:
        """The blocks encrypted, good until the next call."""
        ...

    def open(self, first: int, stored: bytes) -> bytes:
        """The blocks in clear, whatever was sealed; from several threads at once."""
        ...


@dataclass(frozen=True, slots=True)
class Runners:
    """How runs are sealed and opened. `gcm` takes a key and the additional data, `xts` a key."""

    gcm: Callable[[bytes, bytes], GcmRunner]
    xts: Callable[[bytes], XtsRunner]


@cache
def best_runners() -> Runners:
    """Those in C where they are compiled and the system has the libcrypto for them, else those in Python."""
    try:
        return in_c(BlockRuns())
    except BlockRunsMissing:
        return IN_PYTHON


def in_c(runs: BlockRuns) -> Runners:
    """A run with each call."""
    return Runners(
        lambda key, associated: _GcmInC(runs, key, associated),
        lambda key: _XtsInC(runs, key),
    )


class _Reading:
    """Workers that open, each with room: made when one more thread reads than before."""

    def __init__(self, template: Worker) -> None:
        self._template = template
        self._spare: list[tuple[Worker, Room]] = []

    def take(self) -> tuple[Worker, Room]:
        """For one thread, until it gives them back."""
        try:
            return self._spare.pop()
        except IndexError:
            return self._template.copy(), Room()

    def give_back(self, pair: tuple[Worker, Room]) -> None:
        """For the next."""
        self._spare.append(pair)


class _GcmInC:
    def __init__(self, runs: BlockRuns, key: bytes, associated: bytes) -> None:
        self._sealing = runs.worker(BlockCipher.GCM, key, associated, seals=True)
        self._reading = _Reading(runs.worker(BlockCipher.GCM, key, associated, seals=False))

    @cached_property
    def _room(self) -> Room:
        """Made by who seals: a reader of a hundred layers needs none of a hundred."""
        return Room()

    def seal(self, first: int, plain: bytes) -> tuple[memoryview, bytes]:
        tags = self._sealing.seal_gcm(first, plain, self._room)
        return self._room.view[: len(plain)], tags

    def open(self, first: int, stored: bytes, tags: bytes) -> bytes:
        pair = worker, room = self._reading.take()
        bad = worker.open_gcm(first, stored, tags, room)
        if bad is not None:
            raise BadBlock(first + bad)
        plain = bytes(room.view[: len(stored)])
        self._reading.give_back(pair)
        return plain


class _XtsInC:
    def __init__(self, runs: BlockRuns, key: bytes) -> None:
        unused = bytes(ASSOCIATED_LENGTH)
        self._sealing = runs.worker(BlockCipher.XTS, key, unused, seals=True)
        self._reading = _Reading(runs.worker(BlockCipher.XTS, key, unused, seals=False))

    @cached_property
    def _room(self) -> Room:
        """Made by who seals."""
        return Room()

    def seal(self, first: int, plain: bytes) -> memoryview:
        self._sealing.run_xts(first, plain, self._room)
        return self._room.view[: len(plain)]

    def open(self, first: int, stored: bytes) -> bytes:
        pair = worker, room = self._reading.take()
        worker.run_xts(first, stored, room)
        plain = bytes(room.view[: len(stored)])
        self._reading.give_back(pair)
        return plain


class _GcmInPython:
    def __init__(self, key: bytes, associated: bytes) -> None:
        self._aead = AESGCM(key)
        self._associated = associated
        self._spare: list[_Scratch] = []

    @cached_property
    def _buffer(self) -> memoryview:
        """Made by who seals."""
        return memoryview(bytearray(RUN_BLOCKS * BLOCK + _MARGIN))

    @cached_property
    def _slots(self) -> list[tuple[memoryview, memoryview]]:
        """Each block's tag falls where the next block begins, which then overwrites it: no block is copied."""
        buffer = self._buffer
        return [
            (buffer[at : at + BLOCK + _TAG], buffer[at + BLOCK : at + BLOCK + _TAG])
            for at in range(0, RUN_BLOCKS * BLOCK, BLOCK)
        ]

    def seal(self, first: int, plain: bytes) -> tuple[memoryview, bytes]:
        tags, view = bytearray(), memoryview(plain)
        encrypt_into, associated, block, at = self._aead.encrypt_into, self._associated, first, 0
        for target, tag in self._slots[: len(plain) // BLOCK]:
            number = block.to_bytes(8, "big")
            encrypt_into(b"\x00\x00\x00\x00" + number, view[at : at + BLOCK], associated + number, target)
            tags += tag
            block += 1
            at += BLOCK
        return self._buffer[: len(plain)], bytes(tags)

    def open(self, first: int, stored: bytes, tags: bytes) -> bytes:
        scratch = self._scratch()
        sealed, body, tag = scratch.sealed, scratch.sealed[:BLOCK], scratch.sealed[BLOCK:]
        decrypt_into, associated, view = self._aead.decrypt_into, self._associated, memoryview(stored)
        for index, target in enumerate(scratch.opened[: len(stored) // BLOCK]):
            number = (first + index).to_bytes(8, "big")
            body[:] = view[index * BLOCK : (index + 1) * BLOCK]
            tag[:] = tags[index * _TAG : (index + 1) * _TAG]
            try:
                decrypt_into(b"\x00\x00\x00\x00" + number, sealed, associated + number, target)
            except InvalidTag:
                raise BadBlock(first + index) from None
        plain = bytes(scratch.plain[: len(stored)])
        self._spare.append(scratch)
        return plain

    def _scratch(self) -> _Scratch:
        """Room for one reading thread."""
        try:
            return self._spare.pop()
        except IndexError:
            return _Scratch()


class _Scratch:
    """Room to open a run in: one sealed block, and the run in clear. Kept, since new room is a page fault per block."""

    __slots__ = ("opened", "plain", "sealed")

    def __init__(self) -> None:
        self.sealed = memoryview(bytearray(BLOCK + _TAG))
        self.plain = memoryview(bytearray(RUN_BLOCKS * BLOCK))
        self.opened = [self.plain[at : at + BLOCK] for at in range(0, RUN_BLOCKS * BLOCK, BLOCK)]


class _XtsInPython:
    def __init__(self, key: bytes) -> None:
        self._algorithm = AES(key)

    @cached_property
    def _buffer(self) -> memoryview:
        """Made by who seals."""
        return memoryview(bytearray(RUN_BLOCKS * BLOCK + _MARGIN))

    def seal(self, first: int, plain: bytes) -> memoryview:
        view = memoryview(plain)
        for index, at in enumerate(range(0, len(plain), BLOCK)):
            context = self._cipher(first + index).encryptor()
            context.update_into(view[at : at + BLOCK], self._buffer[at : at + BLOCK + _MARGIN - 1])
        return self._buffer[: len(plain)]

    def open(self, first: int, stored: bytes) -> bytes:
        view = memoryview(stored)
        return b"".join(
            self._cipher(first + index).decryptor().update(view[at : at + BLOCK])
            for index, at in enumerate(range(0, len(stored), BLOCK))
        )

    def _cipher(self, block: int) -> Cipher[XTS]:
        return Cipher(self._algorithm, XTS(block.to_bytes(16, "little")))


IN_PYTHON: Final = Runners(_GcmInPython, _XtsInPython)
