"""The keys of an image, all derived from its volume key (secure-containers, 2.2 and 6.1).

    meta    HKDF-SHA256(volume key, info = "meta" ‖ image id)                      the layer maps' MACs
    image   HKDF-SHA256(volume key, info = "image" ‖ image id)                     the image root
    diff    HKDF-SHA256(volume key, info = "diff" ‖ image id)                      the names of encrypted layers' sources
    layer   HKDF-SHA256(volume key, salt, info = "layer" ‖ image id ‖ u32 layer)   a layer's blocks

A nonce is a block's number, so a layer key must never meet two contents: the salt is random, or for reproducible builds a
MAC over all that is encrypted under it and all that goes into the blocks' additional data. Knows no file and no format.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, NewType

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyvisor_guest.containers.errors import KeyRefused

__all__ = [
    "IMAGE_ID_LENGTH",
    "SALT_LENGTH",
    "VOLUME_KEY_LENGTH",
    "ImageId",
    "VolumeKey",
    "image_id",
    "mac",
    "macs_equal",
]

VOLUME_KEY_LENGTH: Final = 32
IMAGE_ID_LENGTH: Final = 16  # bytes; fixed, so that what is built from it needs no lengths
SALT_LENGTH: Final = 32

ImageId = NewType("ImageId", bytes)


def image_id(value: bytes) -> ImageId:
    """16 bytes as an image id. Raises ValueError for another length."""
    if len(value) != IMAGE_ID_LENGTH:
        raise ValueError(f"an image id has {IMAGE_ID_LENGTH} bytes, not {len(value)}")
    return ImageId(bytes(value))


class VolumeKey:
    """The 32 bytes from which all keys of an image come. Shows nothing of them, and is compared with nothing.

    Raises KeyRefused for another length.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        if len(value) != VOLUME_KEY_LENGTH:
            raise KeyRefused(
                f"a volume key has {VOLUME_KEY_LENGTH} bytes, this one {len(value)}: name the file that"
                " `image build` wrote, or the secret that carries it"
            )
        self._value = bytes(value)

    def __repr__(self) -> str:
        return "VolumeKey(...)"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a volume key is not pickled: wrap it for a recipient")

    def reveal(self) -> bytes:
        """The 32 bytes, for wrapping."""
        return self._value

    def meta_key(self, image: ImageId) -> bytes:
        """32 bytes: the key of the layer maps' MACs."""
        return self._derive(b"meta" + image)

    def image_key(self, image: ImageId) -> bytes:
        """32 bytes: the key of the image root."""
        return self._derive(b"image" + image)

    def diff_key(self, image: ImageId) -> bytes:
        """32 bytes: the key under which an encrypted layer's source is named."""
        return self._derive(b"diff" + image)

    def layer_key(self, image: ImageId, layer: int, salt: bytes, length: int) -> bytes:
        """`length` bytes: the key of one layer's blocks, in one build."""
        if len(salt) != SALT_LENGTH:
            raise ValueError(f"a layer's salt has {SALT_LENGTH} bytes, not {len(salt)}")
        return self._derive(b"layer" + image + layer.to_bytes(4, "big"), salt, length)

    def reproducible_salt(self, plan: bytes, content_digest: bytes) -> bytes:
        """A salt that only the same layer with the same content has again.

        `plan` is all of the layer map that is known before anything is encrypted, `content_digest` SHA-256 over the
        plaintext blocks in the map's order.
        """
        covered = hashlib.sha256(hashlib.sha256(plan).digest() + content_digest)
        return mac(self._value, covered.digest())

    def _derive(self, info: bytes, salt: bytes | None = None, length: int = 32) -> bytes:
        return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(self._value)


def mac(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA256."""
    return hmac.digest(key, message, "sha256")


def macs_equal(one: bytes, other: bytes) -> bool:
    """Compared in a time that tells nothing."""
    return hmac.compare_digest(one, other)
