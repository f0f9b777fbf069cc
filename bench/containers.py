"""Section `containers`: secure images built, opened and read, as they grow in size and in layers. No firmware takes part."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.cipher_speeds import cipher_speeds, copied
from bench.image_steps import built, read
from bench.made_images import source_image
from bench.run import Figures, Run

__all__ = ["image_figures", "measure"]

_LAYERS = 4  # of the images that grow in size


def measure(run: Run) -> Figures:
    """Speeds in MB/s; per size and per number of layers what `image_figures` finds."""
    directory, size = run.room("i"), run.size
    run.say("blocks in memory")
    found: Figures = {"speeds": cipher_speeds(size.rounds, size.seconds), "sizes": {}, "layers": {}}
    for mib in size.image_mib:
        run.say(f"an image of {mib:,} MiB")
        found["sizes"][f"{mib:,}"] = image_figures(directory, mib, _LAYERS, size.rounds)
    for layers in size.image_layers:
        run.say(f"an image of {layers} layers")
        found["layers"][f"{layers:,}"] = image_figures(directory, size.image_mib[0] // 4, layers, size.rounds)
    return found


def image_figures(directory: Path, mib: int, layers: int, rounds: int) -> Figures:
    """Bytes, and seconds of each step, of an image made in `directory` and of what is read of it."""
    work = directory / "work"
    work.mkdir()
    source = source_image(work / "source", mib, layers)
    tars = sum(path.stat().st_size for path in (work / "source" / "blobs" / "sha256").iterdir())
    layout, image, figures = built(source, work)
    largest = max(image.secure.layers, key=lambda layer: layer.data.size).data
    copy = copied(layout.blobs.path_of(largest.digest), work / "copy")
    figures |= {"tars": tars, "layers": layers, "cp": largest.size / copy / 1e6}
    figures |= read(layout, image, rounds)
    shutil.rmtree(work)
    return figures
