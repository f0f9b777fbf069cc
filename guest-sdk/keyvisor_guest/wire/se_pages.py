"""The pages of an image's components: AES-256-XTS page by page, and their measurement (formats, E).

A page's tweak is its component's 8-byte prefix (u16 kind ‖ 6 random bytes) and a u64 offset that grows by 4096. What is
measured are the pages as they stand in the file, so nothing has to be decrypted to measure. Knows no file's layout.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS

from keyvisor_guest.wire.boot_identity import PAGE_LENGTH
from keyvisor_guest.wire.errors import CannotDecrypt, Unbuildable
from keyvisor_guest.wire.se_header import IMAGE_KEY_LENGTH, Measurement

__all__ = [
    "TWEAK_PREFIX_LENGTH",
    "Component",
    "ComponentKind",
    "Placement",
    "decrypt_pages",
    "encrypt_pages",
    "measure",
    "whole_pages",
]

TWEAK_PREFIX_LENGTH: Final = 8
_KIND_LENGTH: Final = 2
_MARGIN: Final = 15  # bytes that `update_into` wants beyond what it writes


class ComponentKind(enum.IntEnum):
    """What a component is: the first two bytes of its tweaks. Components stand in this order."""

    KERNEL = 0
    CMDLINE = 1
    RAMDISK = 2
    STAGE3B = 3


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a component's whole pages stand: `address` is both the guest's and the file's (the file is loaded at 0)."""

    address: int
    size: int
    tweak_prefix: bytes

    @property
    def end(self) -> int:
        """The address behind the last page."""
        return self.address + self.size

    @property
    def kind(self) -> int:
        """The component's kind; a number that ComponentKind does not know is possible."""
        return int.from_bytes(self.tweak_prefix[:_KIND_LENGTH], "big")


@dataclass(frozen=True, slots=True)
class Component:
    """A component's pages, as they stand in the image: encrypted, unless the image says otherwise."""

    placement: Placement
    pages: bytes = field(repr=False)


def whole_pages(length: int) -> int:
    """`length` rounded up to whole pages, bytes."""
    return -(-length // PAGE_LENGTH) * PAGE_LENGTH


def encrypt_pages(content: bytes, key: bytes, tweak_prefix: bytes) -> bytes:
    """The content in whole pages, the last one filled up with zeros, each encrypted. Raises Unbuildable for no XTS key."""
    size = whole_pages(len(content))
    try:
        return _crypt(content.ljust(size, b"\x00"), key, tweak_prefix, encrypt=True)
    except ValueError as error:
        raise Unbuildable(f"an image key has {IMAGE_KEY_LENGTH} bytes, and its two halves differ") from error


def decrypt_pages(component: Component, key: bytes) -> bytes:
    """The component's pages in clear. Raises CannotDecrypt for a key of another length."""
    try:
        return _crypt(component.pages, key, component.placement.tweak_prefix, encrypt=False)
    except ValueError as error:
        raise CannotDecrypt("the image's key is none for its pages") from error


def _crypt(pages: bytes, key: bytes, tweak_prefix: bytes, *, encrypt: bool) -> bytes:
    algorithm = AES(key)
    source = memoryview(pages)
    target = memoryview(bytearray(len(source) + _MARGIN))
    for offset in range(0, len(source), PAGE_LENGTH):
        cipher = Cipher(algorithm, XTS(tweak_prefix + offset.to_bytes(8, "big")))
        context = cipher.encryptor() if encrypt else cipher.decryptor()
        context.update_into(
            source[offset : offset + PAGE_LENGTH], target[offset : offset + PAGE_LENGTH + _MARGIN]
        )
    return bytes(target[: len(source)])


def measure(components: Iterable[Component]) -> Measurement:
    """PLD over the pages as they stand, ALD over their addresses (u64), TLD over their tweaks, in order."""
    pld, ald, tld = hashlib.sha512(), hashlib.sha512(), hashlib.sha512()
    page_count = 0
    for component in components:
        place = component.placement
        pld.update(component.pages)
        offsets = range(0, place.size, PAGE_LENGTH)
        ald.update(b"".join((place.address + offset).to_bytes(8, "big") for offset in offsets))
        tld.update(b"".join(place.tweak_prefix + offset.to_bytes(8, "big") for offset in offsets))
        page_count += len(offsets)
    return Measurement(page_count, pld.digest(), ald.digest(), tld.digest())
