"""Secret ids and extension secrets: the values that an owner derives rather than draws (formats, A.4 and A.5)."""

from __future__ import annotations

import hashlib
from typing import Final, NewType

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyvisor_guest.wire.boot_identity import HEADER_TAG_LENGTH
from keyvisor_guest.wire.errors import Unbuildable

__all__ = [
    "CCK_LENGTH",
    "EXTENSION_LENGTH",
    "ID_LENGTH",
    "MAX_NAME",
    "NO_EXTENSION",
    "SecretId",
    "derive_extension_secret",
    "id_from_name",
    "name_as_id",
]

SecretId = NewType("SecretId", bytes)

ID_LENGTH: Final = 32
MAX_NAME: Final = 4096  # bytes of a secret's name
CCK_LENGTH: Final = 32
EXTENSION_LENGTH: Final = 32
NO_EXTENSION: Final = bytes(EXTENSION_LENGTH)  # a value like any other, not "unchecked" (formats, A.5)

_EXTENSION_INFO: Final = b"IBM Z Ultravisor Add-Secret"


def id_from_name(name: str) -> SecretId:
    """SHA-256 of the name's UTF-8 bytes, 32 bytes. Raises Unbuildable for a name that cannot be one."""
    return SecretId(hashlib.sha256(_name_bytes(name)).digest())


def name_as_id(name: str) -> SecretId:
    """The first 31 bytes of the name, filled up to 32 with NUL (`--use-name`). Raises Unbuildable."""
    return SecretId(_name_bytes(name)[: ID_LENGTH - 1].ljust(ID_LENGTH, b"\x00"))


def _name_bytes(name: str) -> bytes:
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise Unbuildable("the secret's name is not valid Unicode: give another one") from error
    if not 1 <= len(encoded) <= MAX_NAME:
        raise Unbuildable(f"a secret's name has 1 to {MAX_NAME} bytes, not {len(encoded)}: give another one")
    if name != name.strip() or not name.isprintable():
        # Policies and pvapconfig trim names before they hash them, so such a secret would never be found again.
        raise Unbuildable(
            f"`{name!r}` is no secret's name: leave out control characters, and blanks at either end"
        )
    return encoded


def derive_extension_secret(cck: bytes, header_tag: bytes) -> bytes:
    """HKDF-SHA-512 of the customer communication key (32 bytes) with the image header's tag (16) as salt: 32 bytes.

    Differs per image build, because the tag does. Raises Unbuildable for other lengths. (formats, A.5)
    """
    if len(cck) != CCK_LENGTH:
        raise Unbuildable(f"a customer communication key has {CCK_LENGTH} bytes, not {len(cck)}")
    if len(header_tag) != HEADER_TAG_LENGTH:
        raise Unbuildable(f"a header tag has {HEADER_TAG_LENGTH} bytes, not {len(header_tag)}")
    return HKDF(SHA512(), EXTENSION_LENGTH, salt=header_tag, info=_EXTENSION_INFO).derive(cck)
