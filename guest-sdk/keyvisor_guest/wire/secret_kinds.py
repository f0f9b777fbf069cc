"""The kinds of secrets that a request can carry, as a table: lengths, and what becomes of them (formats, A.3).

Knows the format's numbers, not which of them a firmware takes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["KINDS", "KindRow", "SecretKind"]


class SecretKind(enum.IntEnum):
    """The u16 of the secret header. Numbers that are missing here are reserved."""

    NULL = 0x01
    ASSOCIATION = 0x02
    PLAINTEXT = 0x03
    AES_128 = 0x04
    AES_192 = 0x05
    AES_256 = 0x06
    AES_XTS_128 = 0x07
    AES_XTS_256 = 0x08
    HMAC_SHA_256 = 0x09
    HMAC_SHA_512 = 0x0A
    EC_P256 = 0x11
    EC_P384 = 0x12
    EC_P521 = 0x13
    ED25519 = 0x14
    ED448 = 0x15
    UPDATE_CCK = 0x16


@dataclass(frozen=True, slots=True)
class KindRow:
    """One kind: its name for people and the lengths in bytes that its secret may have in clear.

    `has_id` is False where the secret header ends before the id; `listed` where the store shows an entry.
    A protected key has `listed_extra` bytes more in lists than its secret: the verification pattern (formats, C.3).
    """

    kind: SecretKind
    title: str
    lengths: range
    has_id: bool = True
    listed: bool = True
    listed_extra: int = 0

    @property
    def is_key(self) -> bool:
        """Whether it is handed out as a protected key, and never in clear."""
        return self.listed_extra > 0

    @property
    def retrievable(self) -> bool:
        """Whether a guest gets it back, in whatever form: all that is listed but association secrets."""
        return self.listed and self.kind != SecretKind.ASSOCIATION

    @property
    def lengths_text(self) -> str:
        """The lengths for people: `32 bytes`, `16 to 8192 bytes in steps of 16`."""
        if len(self.lengths) == 1:
            return f"{self.lengths[0]} bytes"
        return f"{self.lengths[0]} to {self.lengths[-1]} bytes in steps of {self.lengths.step}"


def _exactly(length: int) -> range:
    return range(length, length + 1)


def _key(kind: SecretKind, title: str, length: int) -> KindRow:
    return KindRow(kind, title, _exactly(length), listed_extra=32)


_ROWS: Final = (
    KindRow(SecretKind.NULL, "null", _exactly(0), has_id=False, listed=False),
    KindRow(SecretKind.ASSOCIATION, "association", _exactly(32)),
    KindRow(SecretKind.PLAINTEXT, "plaintext", range(16, 8192 + 1, 16)),
    _key(SecretKind.AES_128, "AES-128 key", 16),
    _key(SecretKind.AES_192, "AES-192 key", 24),
    _key(SecretKind.AES_256, "AES-256 key", 32),
    _key(SecretKind.AES_XTS_128, "AES-XTS-128 key", 32),
    _key(SecretKind.AES_XTS_256, "AES-XTS-256 key", 64),
    _key(SecretKind.HMAC_SHA_256, "HMAC-SHA-256 key", 64),
    _key(SecretKind.HMAC_SHA_512, "HMAC-SHA-512 key", 128),
    _key(SecretKind.EC_P256, "EC P-256 private key", 32),
    _key(SecretKind.EC_P384, "EC P-384 private key", 48),
    _key(SecretKind.EC_P521, "EC P-521 private key", 80),
    _key(SecretKind.ED25519, "Ed25519 private key", 32),
    _key(SecretKind.ED448, "Ed448 private key", 64),
    KindRow(SecretKind.UPDATE_CCK, "update of the customer communication key", _exactly(32), listed=False),
)

KINDS: Final[Mapping[int, KindRow]] = MappingProxyType({row.kind: row for row in _ROWS})
