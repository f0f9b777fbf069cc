"""What can go wrong with a container image.

ContainerError
├── ImageRefused      the image is malformed, beyond a limit, or not what it should be (carries the reason)
└── VolumeUnusable    libext2fs or a program of e2fsprogs is missing or failed, or a volume cannot be read
"""

from __future__ import annotations

from keyvisor_guest.errors import SdkError

__all__ = ["ContainerError", "ImageRefused", "VolumeUnusable"]


class ContainerError(SdkError):
    """Base of everything that is raised on purpose about container images."""


class ImageRefused(ContainerError):
    """The image is malformed, beyond a limit, or not what it should be. `reason` is one line with the way out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class VolumeUnusable(ContainerError):
    """What makes or reads volumes is missing or failed, or a volume is none that we make."""
