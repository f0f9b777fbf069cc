"""From an ordinary image to a secure one: sizes taken, a volume per layer, its differences sealed.

Nothing in the layout names what was made before all of it is there; to give it a tag is the caller's. The volume is in
clear in the work directory while the image is built. Knows no command line, and takes randomness from outside.
"""

from __future__ import annotations

import enum
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final
from uuid import UUID

from keyvisor_guest.containers.budget import Budget
from keyvisor_guest.containers.errors import ImageRefused, Refusal, Unbuildable
from keyvisor_guest.containers.keys import IMAGE_ID_LENGTH, ImageId, VolumeKey
from keyvisor_guest.containers.layer_map import Cipher
from keyvisor_guest.containers.limits import DEFAULT_LIMITS, Limits
from keyvisor_guest.containers.oci.layout import OciLayout
from keyvisor_guest.containers.oci.sources import SourceImage, SourceLayer
from keyvisor_guest.containers.portion import EVERY_LAYER, Portion
from keyvisor_guest.containers.tar_layers import Entry, LayerReader
from keyvisor_guest.containers.volume_states import Measured, build_states
from keyvisor_guest.containers.writer import BuiltImage, ImageWriter, LayerInput, WriterOptions

__all__ = ["BuildOptions", "Progress", "Step", "build_image", "image_id_of_name"]

_NAME_LABEL: Final = b"keyvisor image\0"
_LONGEST_NAME: Final = 256
_LARGEST: Final = (
    1 << 40
)  # bytes of a volume: what makes it takes long for more, and layers hold 16 GiB at most
_TOLD: Final = 256  # entries between two words of progress


class Step(enum.StrEnum):
    """What a build does, in this order; the last two once a layer."""

    MEASURE = "measure"  # done and all in layers
    VOLUME = "volume"  # in entries
    SEAL = "seal"  # in blocks


Progress = Callable[[Step, int, int, int], None]  # the step, its layer, how much is done, of how much


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How an image is built. `random_bytes` None: reproducible. `least_size`: of the volume, in bytes."""

    version: int
    random_bytes: Callable[[int], bytes] | None
    portion: Portion = EVERY_LAYER
    cipher: Cipher = Cipher.GCM
    least_size: int = 0
    limits: Limits = DEFAULT_LIMITS


def image_id_of_name(name: str) -> ImageId:
    """The id of the image that its owner calls `name`, over all its versions. Raises Unbuildable."""
    if not name or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise Unbuildable(
            f"an image's name is printable text of at most {_LONGEST_NAME} characters: give another"
        )
    return ImageId(hashlib.sha256(_NAME_LABEL + name.encode()).digest()[:IMAGE_ID_LENGTH])


def build_image(
    source: SourceImage,
    layout: OciLayout,
    work: Path,
    key: VolumeKey,
    image: ImageId,
    options: BuildOptions,
    wrap: Callable[[bytes], Mapping[str, str]] = lambda _root: {},
    progress: Progress = lambda _step, _layer, _done, _all: None,
) -> BuiltImage:
    """Build `source` into the layout's blobs. `wrap(root)`: the wrapped volume keys by scheme.

    `work` is an empty directory of the caller's own. Raises ImageRefused, Unbuildable, VolumeUnusable; what was stored
    until then has no name in the layout.
    """
    # A portion that this image does not have is refused before the long part, not behind it.
    options.portion.check(len(source.layers))
    if options.least_size > _LARGEST:
        raise Unbuildable(f"a volume has at most {_LARGEST} bytes: ask for less")
    measured, counts = _measure(source, options.limits, progress)
    size = measured.size(options.least_size)
    layout.create()
    writer = ImageWriter(
        layout.blobs,
        key,
        image,
        WriterOptions(
            version=options.version,
            volume_blocks=size.blocks,
            random_bytes=options.random_bytes,
            portion=options.portion,
            cipher=options.cipher,
            limits=options.limits,
        ),
        lambda layer, done, total: progress(Step.SEAL, layer, done, total),
    )
    budget = Budget(options.limits)
    layers = (
        _entries(number, layer, budget, counts[number], progress)
        for number, layer in enumerate(source.layers)
    )
    for state in build_states(work, UUID(bytes=image), size, layers, options.limits):
        with state.path.open("rb") as file:
            found = state.differences
            writer.add_layer(
                LayerInput(_reading(file), found.changed, found.zero, source.layers[state.layer].diff_id)
            )
    return writer.finish(source.config, wrap)


def _measure(source: SourceImage, limits: Limits, progress: Progress) -> tuple[Measured, list[int]]:
    """What all layers need, and how many entries each has. Limits are held here, before anything is written."""
    measured, budget, counts = Measured(), Budget(limits), []
    for number, layer in enumerate(source.layers):
        progress(Step.MEASURE, number, number, len(source.layers))
        count = 0
        with layer.open() as blob:
            reader = LayerReader(blob, budget)
            for entry in reader:
                measured.add(entry)
                count += 1
            _check_source(number, layer, reader)
        counts.append(count)
    progress(Step.MEASURE, len(source.layers) - 1, len(source.layers), len(source.layers))
    return measured, counts


def _entries(
    number: int, layer: SourceLayer, budget: Budget, total: int, progress: Progress
) -> Iterator[Entry]:
    with layer.open() as blob:
        reader = LayerReader(blob, budget)
        for done, entry in enumerate(reader):
            if done % _TOLD == 0:
                progress(Step.VOLUME, number, done, total)
            yield entry
        _check_source(number, layer, reader)
    progress(Step.VOLUME, number, total, total)


def _check_source(number: int, layer: SourceLayer, reader: LayerReader) -> None:
    if reader.diff_id() != layer.diff_id:
        raise ImageRefused(
            f"layer {number} of the source is not the one that its config names: pull the source again",
            Refusal.DIGEST,
        )


def _reading(file: BinaryIO) -> Callable[[int, int], bytes]:
    descriptor = file.fileno()
    return lambda offset, length: os.pread(descriptor, length, offset)
