"""The ciphers of a guest's pages: those that lie in storage, and those that the host pages out. Pure.

At rest: AES-256-XTS under the guest's memory key, page by page; the tweak is the page's guest-absolute address as 16
bytes big-endian. Whoever reads the database sees that a page changed, not what is in it.

Exported: AES-256-SIV (RFC 5297) under the guest's page key. What is authenticated besides are the instance id, the
guest-absolute address and the version: an older export, another page's or another guest's does not come back. There is
no nonce to be used twice: whoever puts an older database back learns at most that a page is the one that it was.
The tag stays with the firmware. Knows no storage and keeps no record.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS

from keyvisor_firmware.errors import PageNotAuthentic
from keyvisor_firmware.storage.page_records import PAGE_TAG_LENGTH
from keyvisor_guest.wire.boot_identity import PAGE_LENGTH

MEMORY_KEY_LENGTH: Final = 64
PAGE_KEY_LENGTH: Final = 64

_TWEAK_LENGTH: Final = 16
_MARGIN: Final = 15  # bytes that `update_into` wants beyond what it writes


def encrypt_at_rest(pages: bytes, memory_key: bytes, address: int) -> bytes:
    """Whole pages of a guest as they lie in storage. `address` is the first one's, guest-absolute.

    Raises ValueError for a part of a page, and for a key that is not 64 bytes with two halves that differ.
    """
    return _crypt(pages, memory_key, address, encrypt=True)


def decrypt_at_rest(pages: bytes, memory_key: bytes, address: int) -> bytes:
    """What `encrypt_at_rest` was given. Nothing is authenticated: pages that the firmware did not write become noise."""
    return _crypt(pages, memory_key, address, encrypt=False)


def export_page(
    clear: bytes, page_key: bytes, instance: bytes, address: int, version: int
) -> tuple[bytes, bytes]:
    """One page (4096 bytes) as it leaves the guest, and its tag (16 bytes).

    `instance` is the instance id's 16 bytes, `page_key` has 32; `version`, from 1 on, is one that was never used with
    this page key.
    Raises ValueError for another length, or version 0.
    """
    if len(clear) != PAGE_LENGTH or version < 1:
        raise ValueError(f"an exported page has {PAGE_LENGTH} bytes and a version from 1 on")
    sealed = AESSIV(page_key).encrypt(clear, _bound_to(instance, address, version))
    return sealed[PAGE_TAG_LENGTH:], sealed[:PAGE_TAG_LENGTH]


def import_page(
    exported: bytes, tag: bytes, page_key: bytes, instance: bytes, address: int, version: int
) -> bytes:
    """The page in clear that left with this version and tag. Raises PageNotAuthentic for any other bytes."""
    if len(exported) != PAGE_LENGTH or len(tag) != PAGE_TAG_LENGTH:
        raise PageNotAuthentic("not the length of an exported page and its tag")
    bound_to = _bound_to(instance, address, version)
    try:
        return AESSIV(page_key).decrypt(tag + exported, bound_to)
    except InvalidTag:
        raise PageNotAuthentic("not the page that left this guest last at this address") from None


def _bound_to(instance: bytes, address: int, version: int) -> list[bytes]:
    return [instance, address.to_bytes(8, "big"), version.to_bytes(8, "big")]


def _crypt(pages: bytes, key: bytes, address: int, *, encrypt: bool) -> bytes:
    if len(pages) % PAGE_LENGTH:
        raise ValueError("whole pages are encrypted, and no parts of them")
    if len(key) != MEMORY_KEY_LENGTH:
        raise ValueError(f"a memory key has {MEMORY_KEY_LENGTH} bytes")
    algorithm = AES(key)
    source = memoryview(pages)
    target = memoryview(bytearray(len(source) + _MARGIN))
    for offset in range(0, len(source), PAGE_LENGTH):
        cipher = Cipher(algorithm, XTS((address + offset).to_bytes(_TWEAK_LENGTH, "big")))
        context = cipher.encryptor() if encrypt else cipher.decryptor()
        context.update_into(
            source[offset : offset + PAGE_LENGTH], target[offset : offset + PAGE_LENGTH + _MARGIN]
        )
    return bytes(target[: len(source)])
