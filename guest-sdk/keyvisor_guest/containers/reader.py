"""Opens a secure image: everything that speaks for all of it is verified first, then blocks as they are asked for.

`ImageReader.open` costs as much as the maps and tags are long, not as the data. Reads are of any thread. What was read is as the
owner built it, or an error; nothing is handed out that was not verified.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final, Self

from keyvisor_guest.containers.block_order import BlockOrder, Piece
from keyvisor_guest.containers.blocks import RUN_BLOCKS, TAG_LENGTHS, LayerBlocks, layer_blocks
from keyvisor_guest.containers.chain import Chain, Demand
from keyvisor_guest.containers.errors import BlockRefused, ImageRefused, Refusal
from keyvisor_guest.containers.hash_tree import check_tree, tree_size
from keyvisor_guest.containers.keys import VolumeKey
from keyvisor_guest.containers.layer_map import Cipher, LayerMap
from keyvisor_guest.containers.limits import BLOCK, DEFAULT_LIMITS, Limits
from keyvisor_guest.containers.oci.blobs import BlobFile, BlobSource, read_document, verify_blob
from keyvisor_guest.containers.oci.digests import Digest
from keyvisor_guest.containers.oci.secure_image import (
    BLOCKS_TYPES,
    TAGS_TYPE,
    TREE_TYPE,
    LayerBlobs,
    SecureManifest,
    parse_secure_manifest,
)

__all__ = ["CACHED_BLOCKS", "ImageReader"]

CACHED_BLOCKS: Final = 1024  # 4 MiB of the volume in clear
_SMALL: Final = 8  # blocks: what is longer is not kept, since it is hardly read twice


@dataclass(slots=True)
class _Layer:
    """One layer's open data blob, with all that its blocks are opened with."""

    map: LayerMap
    blob: BlobFile
    blocks: LayerBlocks
    tags: bytes
    opened: bytearray = field(repr=False)  # a bit per block of the blob

    def read(self, first: int, index: int, count: int) -> bytes:
        length = TAG_LENGTHS[self.map.plan.cipher]
        try:
            stored = self.blob.read_at(index * BLOCK, count * BLOCK)
        except OSError as error:  # of the disk, or of a reader that was closed meanwhile
            raise BlockRefused(first, self.map.plan.layer) from error
        if len(stored) != count * BLOCK:
            raise BlockRefused(first + len(stored) // BLOCK, self.map.plan.layer)
        plain = self.blocks.open(first, stored, self.tags[index * length : (index + count) * length])
        for one in range(index, index + count):
            self.opened[one >> 3] |= 1 << (one & 7)
        return plain


class ImageReader:
    """An open image. `config` is its config's JSON, `root` its image root, `maps` its layers', `size` the volume's bytes."""

    def __init__(
        self, manifest: SecureManifest, config: bytes, root: bytes, layers: list[_Layer], blobs: BlobSource
    ) -> None:
        self.manifest: Final = manifest
        self.config: Final = config
        self.root: Final = root
        self.maps: Final = tuple(layer.map for layer in layers)
        self.order: Final = BlockOrder(one.plan for one in self.maps)
        self.size: Final = self.order.volume_blocks * BLOCK
        self._layers: list[_Layer] | None = layers
        self._blobs = blobs
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        blobs: BlobSource,
        manifest: Digest,
        key: VolumeKey,
        demand: Demand,
        limits: Limits = DEFAULT_LIMITS,
    ) -> Self:
        """Verify chain, config, root, demand and tags, in this order. Raises ImageRefused; then nothing is open."""
        secure = parse_secure_manifest(read_document(blobs, manifest, limits.document), limits)
        chain = Chain(key, limits)
        for blob in secure.layers:
            chain.add(read_document(blobs, blob.map.digest, limits.map_json, blob.map.size))
        config = read_document(blobs, secure.config.digest, limits.document, secure.config.size)
        root = chain.close(hashlib.sha256(config).digest(), secure.image_root, demand)
        with ExitStack() as undo:
            layers = []
            for one, named in zip(chain.maps, secure.layers, strict=True):
                _check_named(one, named)
                file = undo.enter_context(_data(blobs, one))
                tags = _tags(blobs, one)
                opened = bytearray(-(-one.data_blocks // 8))
                layers.append(_Layer(one, file, layer_blocks(key, one.plan, one.salt), tags, opened))
            reader = cls(secure, config, root, layers, blobs)
            undo.pop_all()
        return reader

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes of the volume from `offset` on, fewer where it ends. Raises BlockRefused; ImageRefused when closed."""
        if offset < 0 or length < 0:
            raise ValueError("a volume is read from 0 on")
        length = max(min(length, self.size - offset), 0)
        if not length:
            return b""
        first, skipped = divmod(offset, BLOCK)
        count = -(-(skipped + length) // BLOCK)
        data = b"".join(self._read(piece) for piece in self.order.pieces(first, count))
        return data if len(data) == length else data[skipped : skipped + length]

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Hold every stored block of every layer against its tag and every blob against its digest. Raises ImageRefused."""
        layers = self._open_layers()
        done, total = 0, sum(layer.map.data_blocks for layer in layers)
        with ThreadPoolExecutor(1) as pool:
            # Blobs are hashed beside: the hash and the ciphers let other threads run.
            hashed = [pool.submit(verify_blob, self._blobs, layer.map.data) for layer in layers]
            try:
                for layer, whole in zip(layers, hashed, strict=True):
                    index = 0
                    for first, count in layer.map.plan.extents:
                        for chunk_first, chunk in _chunks(first, count):
                            layer.read(chunk_first, index, chunk)
                            index += chunk
                            done += chunk
                            if progress:
                                progress(done, total)
                    whole.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    @property
    def stored_blocks(self) -> int:
        """How many blocks the data blobs have in all."""
        return sum(one.data_blocks for one in self.maps)

    @property
    def opened_blocks(self) -> int:
        """How many of them were opened so far, each counted once."""
        return sum(int.from_bytes(layer.opened, "big").bit_count() for layer in self._open_layers())

    def close(self) -> None:
        """Drop keys, ciphers and all blocks in clear; reads are refused from then on.

        Python cannot overwrite them in memory: what ends the process ends them for sure.
        """
        with self._lock:
            layers, self._layers = self._layers or [], None
            self._cache.clear()
        for layer in layers:
            layer.blob.close()

    def _open_layers(self) -> list[_Layer]:
        layers = self._layers
        if layers is None:
            raise ImageRefused("the image was closed, its key is gone: open it again", Refusal.CLOSED)
        return layers

    def _read(self, piece: Piece) -> bytes:
        layers = self._open_layers()
        if piece.layer is None:
            return bytes(piece.count * BLOCK)
        layer = layers[piece.layer]
        if piece.count > _SMALL:
            return b"".join(
                layer.read(first, piece.index + first - piece.first, count)
                for first, count in _chunks(piece.first, piece.count)
            )
        return b"".join(self._cached(layer, piece.first + n, piece.index + n) for n in range(piece.count))

    def _cached(self, layer: _Layer, block: int, index: int) -> bytes:
        with self._lock:
            if (known := self._cache.get(block)) is not None:
                self._cache.move_to_end(block)
                return known
        plain = layer.read(block, index, 1)
        with self._lock:
            if self._layers is not None:
                self._cache[block] = plain
                while len(self._cache) > CACHED_BLOCKS:
                    self._cache.popitem(last=False)
        return plain


def _chunks(first: int, count: int) -> Iterator[tuple[int, int]]:
    for start in range(first, first + count, RUN_BLOCKS):
        yield start, min(RUN_BLOCKS, first + count - start)


def _check_named(one: LayerMap, named: LayerBlobs) -> None:
    """The manifest's types and digests are what registries see: they say the same as the map, or somebody edited them."""
    tags_type = TREE_TYPE if one.plan.cipher is Cipher.XTS else TAGS_TYPE
    said = (named.tags.media_type, named.tags.digest, named.data.media_type, named.data.digest)
    if said != (tags_type, one.tags, BLOCKS_TYPES[one.plan.cipher], one.data):
        raise ImageRefused(
            f"the manifest names other blobs for layer {one.plan.layer} than its map: pull the image again",
            Refusal.CHAIN,
        )


def _data(blobs: BlobSource, one: LayerMap) -> BlobFile:
    file = blobs.open(one.data)
    if file.size != one.data_blocks * BLOCK:
        size = file.size
        file.close()
        raise ImageRefused(
            f"the blocks of layer {one.plan.layer} have {size} bytes, not {one.data_blocks * BLOCK}: pull the image again",
            Refusal.SIZE,
        )
    return file


def _tags(blobs: BlobSource, one: LayerMap) -> bytes:
    """The layer's tags, held against their digest in the map; for XTS the leaves of its tree."""
    xts = one.plan.cipher is Cipher.XTS
    blocks = one.data_blocks
    expected = tree_size(blocks) if xts else blocks * TAG_LENGTHS[one.plan.cipher]
    if one.tags_size != expected:
        raise ImageRefused(
            f"the tags of layer {one.plan.layer} are not as many as its blocks: build the image again",
            Refusal.SIZE,
        )
    tags = read_document(blobs, one.tags, expected, expected)
    return check_tree(tags, blocks, one.salt, one.root or b"") if xts else tags
