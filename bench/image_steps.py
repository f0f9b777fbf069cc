"""An image built, opened and read, one step after the other, with the seconds that each takes. Makes no table."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import UUID

from bench.made_images import FIRST_FILE
from bench.run import Figures
from keyvisor_guest.containers.budget import Budget
from keyvisor_guest.containers.chain import ExactImage
from keyvisor_guest.containers.differences import differences
from keyvisor_guest.containers.ext4.programs import check
from keyvisor_guest.containers.ext4.reading import VolumeReader
from keyvisor_guest.containers.ext4.volume import Volume
from keyvisor_guest.containers.keys import VolumeKey, image_id
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.sources import SourceImage, SourceLayer
from keyvisor_guest.containers.reader import ImageReader
from keyvisor_guest.containers.tar_layers import Entry, LayerReader
from keyvisor_guest.containers.volume_states import Measured, copy_with_holes
from keyvisor_guest.containers.writer import BuiltImage, ImageWriter, LayerInput, WriterOptions

__all__ = ["STEPS", "Seconds", "built", "read"]

STEPS: Final = ("measure", "ext4", "fsck", "copy", "diff", "encrypt")
_KEY: Final = VolumeKey(bytes(range(32)))  # of images that nobody keeps
_IMAGE: Final = image_id(b"bench-containers")
_PIECE: Final = 1 << 20


class Seconds(Counter[str]):
    """Seconds by step."""

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """What is done meanwhile is this step's."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self[step] += time.perf_counter() - begun  # type: ignore[assignment]


def built(source: SourceImage, directory: Path) -> tuple[OciLayout, BuiltImage, Figures]:
    """A secure image in a new layout below `directory`; seconds by step, and how many bytes the blobs have."""
    seconds, budget = Seconds(), Budget()
    with seconds.of("measure"):
        measured = Measured()
        for layer in source.layers:
            for entry in _entries(layer, budget):
                measured.add(entry)
        size = measured.size()
    layout = OciLayout(directory / "secure")
    layout.create()
    options = WriterOptions(version=1, volume_blocks=size.blocks, random_bytes=os.urandom)
    writer = ImageWriter(layout.blobs, _KEY, _IMAGE, options)
    lower: Path | None = None
    for number, layer in enumerate(source.layers):
        path = directory / f"state-{number}"
        if lower is None:
            with seconds.of("ext4"):
                volume = Volume.create(path, UUID(bytes=_IMAGE), size.blocks, size.inodes)
        else:
            with seconds.of("copy"):
                copy_with_holes(lower, path)
            volume = Volume(path)
        with seconds.of("ext4"):
            volume.apply(number, _entries(layer, Budget()))
        with seconds.of("fsck"):
            check(path)
        with seconds.of("diff"):
            found = differences(lower, path)
        if lower is not None:
            lower.unlink()
        with seconds.of("encrypt"), path.open("rb") as file:
            descriptor = file.fileno()
            writer.add_layer(
                LayerInput(
                    lambda offset, length, of=descriptor: os.pread(of, length, offset),  # type: ignore[misc]
                    found.changed,
                    found.zero,
                    layer.diff_id,
                )
            )
        lower = path
    image = writer.finish(source.config)
    if lower is not None:
        lower.unlink()
    blobs = {
        name: [getattr(layer, name).size for layer in image.secure.layers] for name in ("map", "tags", "data")
    }
    return layout, image, {"seconds": dict(seconds), **{name: sum(sizes) for name, sizes in blobs.items()}}


def read(layout: OciLayout, image: BuiltImage, rounds: int) -> Figures:
    """Seconds to open the image, to have its first file, to read all of it and to verify it; blocks that each took."""
    found: Figures = {"open": [], "first file": [], "read": [], "verify": []}
    for number in range(rounds):
        begun = time.perf_counter()
        with ImageReader.open(layout.blobs, image.manifest.digest, _KEY, ExactImage(image.root)) as reader:
            found["open"].append(time.perf_counter() - begun)
            volume = VolumeReader(reader.read_at)
            volume.read(volume.find(FIRST_FILE))
            found["first file"].append(time.perf_counter() - begun)
            found |= {"opened": reader.opened_blocks, "stored": reader.stored_blocks}
            if number >= max(rounds // 2, 1):  # the long ones less often
                continue
            begun = time.perf_counter()
            _read_all(reader)
            found["read"].append(time.perf_counter() - begun)
            begun = time.perf_counter()
            reader.verify()
            found["verify"].append(time.perf_counter() - begun)
    return found


def _read_all(reader: ImageReader) -> None:
    """What is stored, as the volume has it: zeros cost nothing, and are no measure of anything."""
    for piece in reader.order.stored:
        end = (piece.first + piece.count) * 4096
        for offset in range(piece.first * 4096, end, _PIECE):
            reader.read_at(offset, min(_PIECE, end - offset))


def _entries(layer: SourceLayer, budget: Budget) -> Iterator[Entry]:
    with layer.open() as blob:
        yield from LayerReader(blob, budget)
