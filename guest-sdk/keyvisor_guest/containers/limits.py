"""What an image may take at most, and the count of what it took (secure-containers, 5)."""

from __future__ import annotations

from dataclasses import dataclass

from keyvisor_guest.containers.errors import ImageRefused

__all__ = ["Budget", "Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one image. Sizes are in bytes.

    The ratio is judged only above `ratio_floor`: a small layer of zeros (a swap file, an empty database) is no bomb.
    """

    total_bytes: int = 16 << 30
    ratio: int = 200
    ratio_floor: int = 64 << 20
    entries: int = 1_000_000
    layer_map_bytes: int = 64 << 20
    xattr_bytes: int = 64 << 10
    path_depth: int = 256
    name_bytes: int = 255
    path_bytes: int = 4095
    layers: int = 128
    pax_bytes: int = 1 << 20
    symlink_hops: int = 40
    zstd_window_log: int = 27


class Budget:
    """What the layers of one image have taken so far; one object for all of them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bytes = 0
        self.entries = 0

    def take_bytes(self, count: int) -> None:
        """Raises ImageRefused when the inflated layers are more than the limit."""
        self.bytes += count
        if self.bytes > self.limits.total_bytes:
            raise ImageRefused(
                f"the layers inflate to more than {self.limits.total_bytes} bytes: allow more if the image is trusted"
            )

    def take_entry(self) -> None:
        """Raises ImageRefused when the layers have more entries than the limit."""
        self.entries += 1
        if self.entries > self.limits.entries:
            raise ImageRefused(
                f"the layers have more than {self.limits.entries} entries: allow more if the image is trusted"
            )
