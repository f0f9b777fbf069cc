"""The blocks of a layer: sealed one by one, opened one by one, each at its own place only (secure-containers, 2.1, 6.1).

    aes-256-gcm   nonce 0^4 ‖ u64 block; additional data image id ‖ prev ‖ u32 layer ‖ u64 block; tag 16 bytes
    none+hmac     the block as it is; tag: the first 16 bytes of HMAC-SHA256 over additional data ‖ block
    aes-256-xts   tweak: the block's number, 16 bytes little-endian (dm-crypt: plain64 with 4096-byte sectors);
                  tag: the stored block's digest, a leaf of the layer's hash tree

Numbers are big-endian where nothing else is said. Knows no blob: runs of blocks come in and go out.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher as BlockCipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS

from keyvisor_guest.containers.errors import BlockRefused
from keyvisor_guest.containers.hash_tree import DIGEST_LENGTH, block_digest
from keyvisor_guest.containers.keys import VolumeKey, macs_equal
from keyvisor_guest.containers.layer_map import Cipher, LayerPlan
from keyvisor_guest.containers.limits import BLOCK

__all__ = ["RUN_BLOCKS", "TAG_LENGTHS", "LayerBlocks", "layer_blocks"]

RUN_BLOCKS: Final = 64  # at most so many blocks are sealed or opened with one call
_TAG: Final = 16
_MARGIN: Final = 16  # a GCM tag behind the last block; what XTS wants beyond what it writes

TAG_LENGTHS: Final[Mapping[Cipher, int]] = MappingProxyType(
    {Cipher.GCM: _TAG, Cipher.CLEAR: _TAG, Cipher.XTS: DIGEST_LENGTH}
)


class LayerBlocks(Protocol):
    """One layer's cipher with its key. `first` is the volume's number of the first of up to RUN_BLOCKS blocks."""

    def seal(self, first: int, plain: memoryview) -> tuple[memoryview, bytes]:
        """The blocks as they are stored (good until the next call), and their tags."""
        ...

    def open(self, first: int, stored: bytes, tags: bytes) -> bytes:
        """The blocks in clear. Raises BlockRefused for the first that was not sealed at its place."""
        ...


def layer_blocks(key: VolumeKey, plan: LayerPlan, salt: bytes) -> LayerBlocks:
    """The cipher of the plan's layer, in the build that `salt` is of."""
    kind = _KINDS[plan.cipher]
    place = _Place(plan.layer, plan.image + plan.prev + plan.layer.to_bytes(4, "big"), salt)
    return kind.make(key.layer_key(plan.image, plan.layer, salt, kind.key_length), place)


@dataclass(frozen=True, slots=True)
class _Place:
    layer: int
    associated: bytes  # the additional data of all blocks, up to the block's number
    salt: bytes


class _Gcm:
    def __init__(self, key: bytes, place: _Place) -> None:
        self._aead = AESGCM(key)
        self._place = place
        self._spare: list[_Scratch] = []

    @cached_property
    def _buffer(self) -> memoryview:
        """Made by who seals: a reader of a hundred layers needs none of a hundred."""
        return memoryview(bytearray(RUN_BLOCKS * BLOCK + _MARGIN))

    @cached_property
    def _slots(self) -> list[tuple[memoryview, memoryview]]:
        """Each block's tag falls where the next block begins, which then overwrites it: no block is copied."""
        buffer = self._buffer
        return [
            (buffer[at : at + BLOCK + _TAG], buffer[at + BLOCK : at + BLOCK + _TAG])
            for at in range(0, RUN_BLOCKS * BLOCK, BLOCK)
        ]

    def seal(self, first: int, plain: memoryview) -> tuple[memoryview, bytes]:
        tags = bytearray()
        encrypt_into, associated, block, at = self._aead.encrypt_into, self._place.associated, first, 0
        for target, tag in self._slots[: len(plain) // BLOCK]:
            number = block.to_bytes(8, "big")
            encrypt_into(b"\x00\x00\x00\x00" + number, plain[at : at + BLOCK], associated + number, target)
            tags += tag
            block += 1
            at += BLOCK
        return self._buffer[: len(plain)], bytes(tags)

    def open(self, first: int, stored: bytes, tags: bytes) -> bytes:
        scratch = self._scratch()
        sealed, body, tag = scratch.sealed, scratch.sealed[:BLOCK], scratch.sealed[BLOCK:]
        decrypt_into, associated, view = self._aead.decrypt_into, self._place.associated, memoryview(stored)
        for index, target in enumerate(scratch.opened[: len(stored) // BLOCK]):
            number = (first + index).to_bytes(8, "big")
            body[:] = view[index * BLOCK : (index + 1) * BLOCK]
            tag[:] = tags[index * _TAG : (index + 1) * _TAG]
            try:
                decrypt_into(b"\x00\x00\x00\x00" + number, sealed, associated + number, target)
            except InvalidTag:
                raise BlockRefused(first + index, self._place.layer) from None
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


class _Clear:
    def __init__(self, key: bytes, place: _Place) -> None:
        self._keyed = hmac.new(key, place.associated, hashlib.sha256)
        self._layer = place.layer

    def seal(self, first: int, plain: memoryview) -> tuple[memoryview, bytes]:
        return plain, b"".join(self._tag(first, index, plain) for index in range(len(plain) // BLOCK))

    def open(self, first: int, stored: bytes, tags: bytes) -> bytes:
        view = memoryview(stored)
        for index in range(len(stored) // BLOCK):
            if not macs_equal(self._tag(first, index, view), tags[index * _TAG : (index + 1) * _TAG]):
                raise BlockRefused(first + index, self._layer)
        return stored

    def _tag(self, first: int, index: int, blocks: memoryview) -> bytes:
        keyed = self._keyed.copy()
        keyed.update((first + index).to_bytes(8, "big"))
        keyed.update(blocks[index * BLOCK : (index + 1) * BLOCK])
        return keyed.digest()[:_TAG]


class _Xts:
    def __init__(self, key: bytes, place: _Place) -> None:
        self._algorithm = AES(key)
        self._place = place

    @cached_property
    def _buffer(self) -> memoryview:
        """Made by who seals."""
        return memoryview(bytearray(RUN_BLOCKS * BLOCK + _MARGIN))

    def seal(self, first: int, plain: memoryview) -> tuple[memoryview, bytes]:
        tags = []
        for index in range(len(plain) // BLOCK):
            at = index * BLOCK
            context = self._cipher(first + index).encryptor()
            context.update_into(plain[at : at + BLOCK], self._buffer[at : at + BLOCK + _MARGIN - 1])
            tags.append(block_digest(self._place.salt, self._buffer[at : at + BLOCK]))
        return self._buffer[: len(plain)], b"".join(tags)

    def open(self, first: int, stored: bytes, tags: bytes) -> bytes:
        opened = []
        for index in range(len(stored) // BLOCK):
            block = stored[index * BLOCK : (index + 1) * BLOCK]
            expected = tags[index * DIGEST_LENGTH : (index + 1) * DIGEST_LENGTH]
            if not macs_equal(block_digest(self._place.salt, block), expected):
                raise BlockRefused(first + index, self._place.layer)
            opened.append(self._cipher(first + index).decryptor().update(block))
        return b"".join(opened)

    def _cipher(self, block: int) -> BlockCipher[XTS]:
        return BlockCipher(self._algorithm, XTS(block.to_bytes(16, "little")))


@dataclass(frozen=True, slots=True)
class _Kind:
    key_length: int
    make: Callable[[bytes, _Place], LayerBlocks]


_KINDS: Final[Mapping[Cipher, _Kind]] = MappingProxyType(
    {Cipher.GCM: _Kind(32, _Gcm), Cipher.CLEAR: _Kind(32, _Clear), Cipher.XTS: _Kind(64, _Xts)}
)
