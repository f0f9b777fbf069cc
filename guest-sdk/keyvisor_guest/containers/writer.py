"""Builds a secure image: volume states in, blobs and a manifest out.

A layer comes as a reader of the volume's state after it and the runs that differ from the state below. Knows no tar and no file
system, and takes randomness from outside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from keyvisor_guest.containers.blocks import RUN_BLOCKS, layer_blocks
from keyvisor_guest.containers.errors import Unbuildable
from keyvisor_guest.containers.hash_tree import build_tree
from keyvisor_guest.containers.keys import SALT_LENGTH, ImageId, VolumeKey, mac
from keyvisor_guest.containers.layer_map import (
    NO_LAYER_BELOW,
    Cipher,
    LayerMap,
    LayerPlan,
    image_root,
    sign_map,
)
from keyvisor_guest.containers.limits import BLOCK, DEFAULT_LIMITS, Limits
from keyvisor_guest.containers.oci.blobs import BlobDirectory, Stored
from keyvisor_guest.containers.oci.digests import Digest, parse_digest
from keyvisor_guest.containers.oci.documents import MANIFEST, Descriptor
from keyvisor_guest.containers.oci.secure_image import (
    BLOCKS_TYPES,
    CONFIG_TYPE,
    LAYER,
    MAP_TYPE,
    TAGS_TYPE,
    TREE_TYPE,
    LayerBlobs,
    SecureManifest,
    secure_config,
    secure_manifest,
)
from keyvisor_guest.containers.portion import EVERY_LAYER, Portion
from keyvisor_guest.containers.runs import Runs, are_disjoint, blocks_in, check_runs
from keyvisor_guest.containers.sealing import sealed_runs
from keyvisor_guest.containers.thin import rows_for

__all__ = ["BuiltImage", "ImageWriter", "LayerInput", "WriterOptions"]

_FEW: Final = 4 * RUN_BLOCKS  # blocks: for so few no thread is worth its start


@dataclass(frozen=True, slots=True)
class LayerInput:
    """One layer of the source. `read_at(offset, length)` gives exactly `length` bytes of the volume's state after it."""

    read_at: Callable[[int, int], bytes]
    changed: Runs
    zero: Runs
    diff_id: Digest  # of the source's layer


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """How an image is built. `random_bytes` None: reproducible, equal content gives equal ciphertext, which shows."""

    version: int
    volume_blocks: int
    random_bytes: Callable[[int], bytes] | None
    portion: Portion = EVERY_LAYER
    cipher: Cipher = Cipher.GCM
    limits: Limits = DEFAULT_LIMITS


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """What came of it. `manifest` can be tagged in a layout; `root` goes into the secret that carries the key."""

    manifest: Descriptor
    root: bytes
    secure: SecureManifest


class ImageWriter:
    """Takes an image's layers bottom up, then its config. Raises Unbuildable; what was stored before is then left over.

    `progress(layer, done, all)`, where it is given, is told of blocks.
    """

    def __init__(
        self,
        blobs: BlobDirectory,
        key: VolumeKey,
        image: ImageId,
        options: WriterOptions,
        progress: Callable[[int, int, int], None] | None = None,
    ) -> None:
        if options.cipher is Cipher.CLEAR:
            raise Unbuildable("layers that are to be encrypted need a cipher: `aes-256-gcm` or `aes-256-xts`")
        if not 0 <= options.version < 1 << 64:
            raise Unbuildable("an image's version is a number from 0 to 2^64-1")
        self._blobs: Final = blobs
        self._key: Final = key
        self._image: Final = image
        self._options: Final = options
        self._progress: Final = progress
        self._layers: list[LayerBlobs] = []
        self._last = NO_LAYER_BELOW
        self._pool_end = 0

    def add_layer(self, source: LayerInput) -> LayerMap:
        """Seal the next layer and store its blobs."""
        number = len(self._layers)
        if number >= self._options.limits.layers:
            raise Unbuildable(f"an image has at most {self._options.limits.layers} layers: squash some")
        plan = self._plan(number, source)
        salt, content = self._salt(plan, source)
        data, tags = self._seal(plan, source, salt, content)
        tree, root = build_tree(tags, salt) if plan.cipher is Cipher.XTS else (tags, None)
        stored = self._blobs.put(tree)
        thin = rows_for(plan.extents, plan.zero, self._pool_end)
        source_name = self._name_source(plan, source)
        layer = LayerMap(plan, salt, data.digest, stored.digest, stored.size, root, source_name, thin)
        signed = sign_map(layer, self._key.meta_key(self._image))
        if len(signed) > self._options.limits.map_json:
            raise Unbuildable(
                f"the map of layer {number} is larger than {self._options.limits.map_json} bytes"
            )
        self._layers.append(_described(number, plan.cipher, self._blobs.put(signed), stored, data))
        self._last = hashlib.sha256(signed).digest()
        self._pool_end = thin.pool_end
        return layer

    def finish(
        self,
        source_config: bytes,
        wrap: Callable[[bytes], Mapping[str, str]] = lambda _root: {},
        annotations: Mapping[str, str] | None = None,
    ) -> BuiltImage:
        """Store config and manifest. `wrap(root)` gives the wrapped volume keys by scheme. Raises Unbuildable, ImageRefused."""
        self._options.portion.check(len(self._layers))
        config = secure_config(source_config, self._layers)
        if len(config) > self._options.limits.document:
            raise Unbuildable(f"the config is larger than {self._options.limits.document} bytes")
        stored = self._blobs.put(config)
        root = image_root(
            self._key.image_key(self._image),
            self._last,
            hashlib.sha256(config).digest(),
            self._options.version,
        )
        described = Descriptor(CONFIG_TYPE, stored.digest, stored.size)
        secure = SecureManifest(described, tuple(self._layers), root, wrap(root), annotations or {})
        manifest = self._blobs.put(secure_manifest(secure))
        return BuiltImage(Descriptor(MANIFEST, manifest.digest, manifest.size), root, secure)

    def _plan(self, number: int, source: LayerInput) -> LayerPlan:
        options = self._options
        try:
            check_runs(source.changed, options.volume_blocks)
            check_runs(source.zero, options.volume_blocks)
        except ValueError as error:
            raise Unbuildable(f"the differences of layer {number} cannot be: {error}") from error
        if not are_disjoint(source.changed, source.zero):
            raise Unbuildable(
                f"the differences of layer {number} cannot be: a block is both changed and zero"
            )
        cipher = options.cipher if options.portion.includes(number) else Cipher.CLEAR
        return LayerPlan(
            version=options.version,
            image=self._image,
            layer=number,
            volume_blocks=options.volume_blocks,
            cipher=cipher,
            extents=source.changed,
            zero=source.zero,
            prev=self._last,
        )

    def _salt(self, plan: LayerPlan, source: LayerInput) -> tuple[bytes, bytes | None]:
        """The layer's salt and, where it was made from the content, the content's hash."""
        if self._options.random_bytes is not None:
            return self._options.random_bytes(SALT_LENGTH), None
        content = hashlib.sha256()
        for _, chunk in _chunks(plan, source):
            content.update(chunk)
        digest = content.digest()
        return self._key.reproducible_salt(plan.spelled(), digest), digest

    def _seal(
        self, plan: LayerPlan, source: LayerInput, salt: bytes, expected: bytes | None
    ) -> tuple[Stored, bytes]:
        """The data blob and the tags. `expected`: the hash of the content that the salt was made from."""
        content = hashlib.sha256() if expected is not None else None
        tags, done, total = [], 0, blocks_in(plan.extents)
        runs = sealed_runs(
            _chunks(plan, source),
            lambda: layer_blocks(self._key, plan, salt),
            few=total <= _FEW,
        )
        with self._blobs.writing() as blob, closing(runs):
            for run in runs:
                if content is not None:
                    content.update(run.plain)
                blob.write(run.stored)
                tags.append(run.tags)
                done += len(run.plain) // BLOCK
                if self._progress:
                    self._progress(plan.layer, done, total)
            if content is not None and content.digest() != expected:
                # The salt does not cover what was sealed: one key would meet two contents. None of it is kept.
                raise Unbuildable(f"the volume changed while layer {plan.layer} was built: build it again")
            return blob.commit(), b"".join(tags)

    def _name_source(self, plan: LayerPlan, source: LayerInput) -> str:
        diff_id = parse_digest(source.diff_id)
        if plan.cipher is Cipher.CLEAR:
            return diff_id
        named = plan.layer.to_bytes(4, "big") + diff_id.encode()
        return f"hmac-sha256:{mac(self._key.diff_key(self._image), named).hex()}"


def _chunks(plan: LayerPlan, source: LayerInput) -> Iterator[tuple[int, bytes]]:
    for first, count in plan.extents:
        for block in range(first, first + count, RUN_BLOCKS):
            length = min(RUN_BLOCKS, first + count - block) * BLOCK
            chunk = source.read_at(block * BLOCK, length)
            if len(chunk) != length:
                raise Unbuildable(f"the volume ends in block {block + len(chunk) // BLOCK}: build it again")
            yield block, chunk


def _described(number: int, cipher: Cipher, signed: Stored, tags: Stored, data: Stored) -> LayerBlobs:
    annotations = {LAYER: str(number)}
    tags_type = TREE_TYPE if cipher is Cipher.XTS else TAGS_TYPE
    return LayerBlobs(
        Descriptor(MAP_TYPE, signed.digest, signed.size, annotations),
        Descriptor(tags_type, tags.digest, tags.size, annotations),
        Descriptor(BLOCKS_TYPES[cipher], data.digest, data.size, annotations),
    )
