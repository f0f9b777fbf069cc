"""What the layers of one image have taken so far, held against the limits while they are read."""

from __future__ import annotations

from keyvisor_guest.containers.errors import ImageRefused, Refusal
from keyvisor_guest.containers.limits import DEFAULT_LIMITS, Limits

__all__ = ["Budget"]


class Budget:
    """One object for all layers of an image."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.limits = limits
        self._bytes = 0
        self._entries = 0

    def take_bytes(self, count: int) -> None:
        """Raises ImageRefused when the layers inflate to more than the limit."""
        self._bytes += count
        if self._bytes > self.limits.uncompressed:
            raise ImageRefused(
                f"the layers inflate to more than {self.limits.uncompressed} bytes: allow more if the image is trusted",
                Refusal.LIMIT,
            )

    def take_entry(self) -> None:
        """Raises ImageRefused when the layers have more entries than the limit."""
        self._entries += 1
        if self._entries > self.limits.entries:
            raise ImageRefused(
                f"the layers have more than {self.limits.entries} entries: allow more if the image is trusted",
                Refusal.LIMIT,
            )
