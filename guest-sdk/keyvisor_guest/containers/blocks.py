"""The blocks of a layer: each sealed for itself, and opened at its own place only (secure-containers, 2.1, 6.1).

    aes-256-gcm   nonce 0^4 ‖ u64 block; additional data image id ‖ prev ‖ u32 layer ‖ u64 block; tag 16 bytes
    none+hmac     the block as it is; tag: the first 16 bytes of HMAC-SHA256 over additional data ‖ block
    aes-256-xts   tweak: the block's number, 16 bytes little-endian (dm-crypt: plain64 with 4096-byte sectors);
                  tag: the stored block's digest, a leaf of the layer's hash tree

Numbers are big-endian where nothing else is said. Knows no blob: runs of blocks come in and go out.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from keyvisor_guest.containers.block_runs import RUN_BLOCKS
from keyvisor_guest.containers.errors import BlockRefused
from keyvisor_guest.containers.hash_tree import DIGEST_LENGTH, block_digest
from keyvisor_guest.containers.keys import VolumeKey, macs_equal
from keyvisor_guest.containers.layer_map import Cipher, LayerPlan
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.runners import BadBlock, Runners, best_runners

__all__ = ["RUN_BLOCKS", "TAG_LENGTHS", "LayerBlocks", "layer_blocks"]

_TAG: Final = 16

TAG_LENGTHS: Final[Mapping[Cipher, int]] = MappingProxyType(
    {Cipher.GCM: _TAG, Cipher.CLEAR: _TAG, Cipher.XTS: DIGEST_LENGTH}
)


class LayerBlocks(Protocol):
    """One layer's cipher with its key. `first` is the volume's number of the first of up to RUN_BLOCKS blocks."""

    def seal(self, first: int, plain: bytes) -> tuple[memoryview, bytes]:
        """The blocks as they are stored (good until the next call), and their tags."""
        ...

    def open(self, first: int, stored: bytes, tags: bytes) -> bytes:
        """The blocks in clear. Raises BlockRefused for the first that was not sealed at its place."""
        ...


def layer_blocks(key: VolumeKey, plan: LayerPlan, salt: bytes, runners: Runners | None = None) -> LayerBlocks:
    """The cipher of the plan's layer, in the build that `salt` is of. `runners`: the best that there are."""
    kind = _KINDS[plan.cipher]
    place = _Place(plan.layer, plan.image + plan.prev + plan.layer.to_bytes(4, "big"), salt)
    return kind.make(
        runners or best_runners(), key.layer_key(plan.image, plan.layer, salt, kind.key_length), place
    )


@dataclass(frozen=True, slots=True)
class _Place:
    layer: int
    associated: bytes  # the additional data of all blocks, up to the block's number
    salt: bytes


class _Gcm:
    def __init__(self, runners: Runners, key: bytes, place: _Place) -> None:
        self._runner = runners.gcm(key, place.associated)
        self._layer = place.layer

    def seal(self, first: int, plain: bytes) -> tuple[memoryview, bytes]:
        return self._runner.seal(first, plain)

    def open(self, first: int, stored: bytes, tags: bytes) -> bytes:
        try:
            return self._runner.open(first, stored, tags)
        except BadBlock as bad:
            raise BlockRefused(bad.block, self._layer) from None


class _Clear:
    def __init__(self, _: Runners, key: bytes, place: _Place) -> None:
        self._keyed = hmac.new(key, place.associated, hashlib.sha256)
        self._layer = place.layer

    def seal(self, first: int, plain: bytes) -> tuple[memoryview, bytes]:
        view = memoryview(plain)
        return view, b"".join(self._tag(first, index, view) for index in range(len(plain) // BLOCK))

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
    def __init__(self, runners: Runners, key: bytes, place: _Place) -> None:
        self._runner = runners.xts(key)
        self._place = place

    def seal(self, first: int, plain: bytes) -> tuple[memoryview, bytes]:
        stored = self._runner.seal(first, plain)
        return stored, b"".join(self._digests(stored))

    def open(self, first: int, stored: bytes, tags: bytes) -> bytes:
        for index, digest in enumerate(self._digests(memoryview(stored))):
            if not macs_equal(digest, tags[index * DIGEST_LENGTH : (index + 1) * DIGEST_LENGTH]):
                raise BlockRefused(first + index, self._place.layer)
        return self._runner.open(first, stored)

    def _digests(self, stored: memoryview) -> Iterator[bytes]:
        return (
            block_digest(self._place.salt, stored[at : at + BLOCK]) for at in range(0, len(stored), BLOCK)
        )


@dataclass(frozen=True, slots=True)
class _Kind:
    key_length: int
    make: Callable[[Runners, bytes, _Place], LayerBlocks]


_KINDS: Final[Mapping[Cipher, _Kind]] = MappingProxyType(
    {Cipher.GCM: _Kind(32, _Gcm), Cipher.CLEAR: _Kind(32, _Clear), Cipher.XTS: _Kind(64, _Xts)}
)
