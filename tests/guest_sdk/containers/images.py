"""A small volume in three states, and secure images made of it, for the tests of this folder.

The volume has 64 blocks. Layer 0 writes blocks 0-3 and 10-39; layer 1 changes 2, 12-13 and adds 50; layer 2 changes 12 again and
makes 20-21 zero.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from keyvisor_guest.containers.keys import ImageId, VolumeKey, image_id
from keyvisor_guest.containers.layer_map import Cipher
from keyvisor_guest.containers.limits import BLOCK
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.portion import Portion
from keyvisor_guest.containers.reader import ImageReader
from keyvisor_guest.containers.writer import BuiltImage, ImageWriter, LayerInput, WriterOptions

VOLUME_BLOCKS = 64
KEY = bytes(range(32))
IMAGE: ImageId = image_id(b"payments-service")
CONFIG = json.dumps(
    {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/bin/pay"], "Env": ["A=1"], "User": "1000:2000", "WorkingDir": "/srv"},
        "history": [{"created_by": "debootstrap"}, {"created_by": "RUN pip"}, {"created_by": "COPY app"}],
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + 64 * "a"] * 3},
    }
).encode()
CHANGED = (((0, 4), (10, 30)), ((2, 1), (12, 2), (50, 1)), ((12, 1),))
ZERO = ((), (), ((20, 2),))


def block(layer: int, number: int) -> bytes:
    """The content that the layer gives to the block: known plaintext, different everywhere."""
    return (f"plaintext of layer {layer}, block {number}\n".encode() * 200)[:BLOCK]


def states(changed=CHANGED, zero=ZERO, volume_blocks: int = VOLUME_BLOCKS, content=block) -> list[bytes]:
    """The volume after each layer."""
    volume, result = bytearray(volume_blocks * BLOCK), []
    for layer, (runs, holes) in enumerate(zip(changed, zero, strict=True)):
        for first, count in runs:
            for number in range(first, first + count):
                volume[number * BLOCK : (number + 1) * BLOCK] = content(layer, number)
        for first, count in holes:
            volume[first * BLOCK : (first + count) * BLOCK] = bytes(count * BLOCK)
        result.append(bytes(volume))
    return result


def inputs(changed=CHANGED, zero=ZERO, volumes: list[bytes] | None = None) -> list[LayerInput]:
    volumes = states(changed, zero) if volumes is None else volumes
    return [
        LayerInput(
            lambda offset, length, volume=volume: volume[offset : offset + length],
            runs,
            holes,
            "sha256:" + hashlib.sha256(volume).hexdigest(),
        )
        for volume, runs, holes in zip(volumes, changed, zero, strict=True)
    ]


class Counted:
    """Randomness that is not: each call gives the next bytes."""

    def __init__(self, start: int = 0) -> None:
        self.calls = start

    def __call__(self, length: int) -> bytes:
        self.calls += 1
        return hashlib.shake_256(self.calls.to_bytes(4, "big")).digest(length)


class Made:
    """An image in a layout. `volume`: as it should be in the end; no failing test shows all of it."""

    def __init__(self, layout: OciLayout, built: BuiltImage, volume: bytes) -> None:
        self.layout = layout
        self.built = built
        self.volume = volume

    def open(self, demand, key: bytes = KEY, manifest=None) -> ImageReader:
        digest = self.built.manifest.digest if manifest is None else manifest
        return ImageReader.open(self.layout.blobs, digest, VolumeKey(key), demand)


def make(
    path: Path,
    *,
    layers: list[LayerInput] | None = None,
    volume: bytes | None = None,
    config: bytes = CONFIG,
    key: bytes = KEY,
    image: ImageId = IMAGE,
    version: int = 3,
    volume_blocks: int = VOLUME_BLOCKS,
    random_bytes="counted",
    portion: str = "0-",
    cipher: Cipher = Cipher.GCM,
    tag: str = "latest",
) -> Made:
    """Build an image into the layout at `path`."""
    layout = OciLayout(path)
    layout.create()
    options = WriterOptions(
        version=version,
        volume_blocks=volume_blocks,
        random_bytes=Counted() if random_bytes == "counted" else random_bytes,
        portion=Portion.parse(portion),
        cipher=cipher,
    )
    writer = ImageWriter(layout.blobs, VolumeKey(key), image, options)
    for one in inputs() if layers is None else layers:
        writer.add_layer(one)
    built = writer.finish(config)
    layout.tag(built.manifest, tag)
    return Made(layout, built, states()[-1] if volume is None else volume)
