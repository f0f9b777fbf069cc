"""What can go wrong with secure containers.

    ContainerError
    ├── ImageRefused       an image or a layer that is not used (carries the refusal's code); nothing of it was
    │   └── BlockRefused   one block is not as its owner built it (carries its number): the reader gets EIO, never bytes
    ├── KeyRefused         a key that is none, or that does not open what it should
    ├── NotInImage         a path that leads to nothing in the image, or to something of another kind
    ├── Unbuildable        what was asked for cannot be built (a portion without layers, a volume that changed meanwhile)
    ├── Unextractable      a tree that does not come out whole: a name that leads out, no room, too deep
    ├── Unservable         an open image that cannot be served or run as it was asked for
    ├── CipherFailed       libcrypto did not do what was asked of it; nothing was sealed or opened
    ├── VolumeUnusable     libext2fs or a program of e2fsprogs is missing or failed, or a volume is damaged
    └── RegistryFailed     a registry did not do what was asked of it (carries its HTTP status, 0 if there was none)

No error's text holds a byte of a key or of a block.
"""

from __future__ import annotations

import enum

from keyvisor_guest.errors import SdkError

__all__ = [
    "BlockRefused",
    "CipherFailed",
    "ContainerError",
    "ImageRefused",
    "KeyRefused",
    "NotInImage",
    "Refusal",
    "RegistryFailed",
    "Unbuildable",
    "Unextractable",
    "Unservable",
    "VolumeUnusable",
]


class Refusal(enum.StrEnum):
    """Why an image is refused, for programs."""

    MALFORMED = "malformed"  # not of the format
    LIMIT = "limit"  # more than a limit lets through
    DIGEST = "digest"  # a blob is not what its digest says
    SIZE = "size"  # a blob is shorter or longer than it was built
    MISSING = "missing"  # a blob or a document is not there
    MAP_MAC = "map-mac"  # a layer map is not its owner's, or the key is another image's
    CHAIN = "chain"  # layers are missing, doubled, exchanged or of another image
    IMAGE_ROOT = "image-root"  # config, order and version are not what the owner put together
    OTHER_IMAGE = "other-image"  # a good image, and not the one that the key was released for
    TOO_OLD = "too-old"  # a good image, older than the key's release lets through
    INTEGRITY_TREE = "integrity-tree"  # the tree over an XTS layer does not lead to the root in its map
    BLOCK = "block"  # a block is not the one that was built at this place
    CLOSED = "closed"  # the reader was closed: its key is gone


class ContainerError(SdkError):
    """Base of everything that secure containers raise on purpose."""


class ImageRefused(ContainerError):
    """An image or a layer that is not used."""

    def __init__(self, reason: str, code: Refusal = Refusal.MALFORMED) -> None:
        super().__init__(reason)
        self.code = code


class BlockRefused(ImageRefused):
    """Block number `block` of the volume is not as its owner built it."""

    def __init__(self, block: int, layer: int) -> None:
        super().__init__(
            f"block {block} of layer {layer} is not as it was built: pull the image again", Refusal.BLOCK
        )
        self.block = block
        self.layer = layer


class KeyRefused(ContainerError):
    """A key that is none, or that does not open what it should."""


class NotInImage(ContainerError):
    """A path that leads to nothing in the image, or to something of another kind than is asked for."""


class Unbuildable(ContainerError):
    """What was asked for cannot be built."""


class Unextractable(ContainerError):
    """A tree that does not come out whole. What came out until then is there."""


class Unservable(ContainerError):
    """An image that is as it should be, and cannot be served or run as it was asked for."""


class CipherFailed(ContainerError):
    """libcrypto did not do what was asked of it. Nothing was sealed or opened."""


class VolumeUnusable(ContainerError):
    """What makes or reads volumes is missing or failed, or a volume is damaged or none that we make."""


class RegistryFailed(ContainerError):
    """A registry did not do what was asked of it. `status`: HTTP, or 0 where there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
