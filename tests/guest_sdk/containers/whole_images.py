"""Ordinary images in a layout, and secure ones built from them the whole way: tar, ext4, differences, blobs."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from uuid import UUID

from keyvisor_guest.containers.budget import Budget
from keyvisor_guest.containers.keys import VolumeKey
from keyvisor_guest.containers.layer_map import Cipher
from keyvisor_guest.containers.oci.documents import MANIFEST, Descriptor, Manifest, manifest_bytes
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.secure_image import CONFIG_TYPE
from keyvisor_guest.containers.oci.sources import SourceImage, SourceLayer, from_layout
from keyvisor_guest.containers.portion import Portion
from keyvisor_guest.containers.tar_layers import Entry, LayerReader
from keyvisor_guest.containers.volume_states import Measured, State, build_states
from keyvisor_guest.containers.writer import BuiltImage, ImageWriter, LayerInput, WriterOptions

from .images import IMAGE, KEY

_TAR = "application/vnd.oci.image.layer.v1.tar+gzip"


def source_image(path: Path, tars: Sequence[bytes], tag: str = "latest") -> SourceImage:
    """An ordinary image of these layers, in a new layout."""
    layout = OciLayout(path)
    layout.create()
    stored = [layout.blobs.put(gzip.compress(one, 1, mtime=0)) for one in tars]
    layers = tuple(Descriptor(_TAR, one.digest, one.size) for one in stored)
    diff_ids = ["sha256:" + hashlib.sha256(one).hexdigest() for one in tars]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    described = layout.blobs.put(json.dumps(config).encode())
    manifest = manifest_bytes(Manifest(Descriptor(CONFIG_TYPE, described.digest, described.size), layers))
    stored_manifest = layout.blobs.put(manifest)
    image = Descriptor(MANIFEST, stored_manifest.digest, stored_manifest.size)
    layout.tag(image, tag)
    return from_layout(layout, image)


def build(
    source: SourceImage,
    layout: OciLayout,
    work: Path,
    cipher: Cipher,
    portion: str,
    random_bytes: Callable[[int], bytes] | None,
    seen: Callable[[State], None] = lambda _: None,
) -> BuiltImage:
    """A secure image of it. `seen` is shown the volume after each layer."""
    work.mkdir()
    measured, budget = Measured(), Budget()
    for layer in source.layers:
        with layer.open() as blob:
            for entry in LayerReader(blob, budget):
                measured.add(entry)
    size = measured.size()
    layout.create()
    options = WriterOptions(
        version=1,
        volume_blocks=size.blocks,
        random_bytes=random_bytes,
        portion=Portion.parse(portion),
        cipher=cipher,
    )
    writer = ImageWriter(layout.blobs, VolumeKey(KEY), IMAGE, options)
    layers = (_entries(layer, budget) for layer in source.layers)
    for state in build_states(work, UUID(bytes=IMAGE), size, layers):
        seen(state)
        with state.path.open("rb") as file:
            writer.add_layer(
                LayerInput(
                    lambda offset, length, file=file: os.pread(file.fileno(), length, offset),  # type: ignore[misc]
                    state.differences.changed,
                    state.differences.zero,
                    source.layers[state.layer].diff_id,
                )
            )
    built = writer.finish(source.config)
    layout.tag(built.manifest)
    return built


def _entries(layer: SourceLayer, budget: Budget) -> Iterator[Entry]:
    with layer.open() as blob:
        reader = LayerReader(blob, budget)
        yield from reader
        assert reader.diff_id() == layer.diff_id
