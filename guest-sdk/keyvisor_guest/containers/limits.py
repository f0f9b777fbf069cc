"""How much of an image is taken before it is refused (secure-containers, 5). Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["BLOCK", "DEFAULT_LIMITS", "Limits"]

BLOCK: Final = 4096  # bytes: of a block of the volume, of ext4, and of a page


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes are in bytes."""

    uncompressed: int = 16 << 30  # all layers' tars together
    ratio: int = 200  # uncompressed : compressed, of one layer
    ratio_from: int = 64 << 20  # uncompressed, before the ratio is judged: a small layer of zeros is no bomb
    zstd_window_log: int = 27  # 128 MiB
    entries: int = 1_000_000  # of all tars
    map_json: int = 64_000_000  # of one layer map
    xattr: int = 64 << 10
    path_depth: int = 256
    path: int = 4095
    name: int = 255  # of one part of a path
    layers: int = 128
    pax_header: int = 1 << 20
    symlink_hops: int = 40
    document: int = 4 << 20  # a manifest, an index or a config


DEFAULT_LIMITS: Final = Limits()
