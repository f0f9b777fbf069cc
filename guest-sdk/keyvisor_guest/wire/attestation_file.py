"""The file in which attestation requests and their answers go back and forth, version 1 (formats, C.6).

    000  8  "pvattest"      00c  4  total length     018  5 · (u32 length, u32 offset)
    008  4  00000100        010  8  reserved         040  the data

The five are request (ARCB), measurement, additional data, user data, CUID. No length: absent. A length without an
offset: so many bytes are expected, which a request says of its answer. Knows no cryptography.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Self

from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import Malformed

__all__ = [
    "CUID_LENGTH",
    "MAX_FILE",
    "MAX_USER_DATA",
    "MEASUREMENT_LENGTH",
    "Attestation",
    "AttestationFile",
]

MEASUREMENT_LENGTH: Final = 64  # HMAC-SHA-512
MAX_USER_DATA: Final = 256
CUID_LENGTH: Final = 16

MAGIC: Final = b"pvattest"
VERSION: Final = 0x100
HEAD_LENGTH: Final = 0x40
_LIMITS: Final = {  # bytes of each part; what the device takes in one call
    "request": 0x100000,
    "measurement": 0x8000,
    "additional": 0x8000,
    "user_data": MAX_USER_DATA,
    "cuid": CUID_LENGTH,
}
MAX_FILE: Final = HEAD_LENGTH + sum(_LIMITS.values())


@dataclass(frozen=True, slots=True)
class Attestation:
    """What a firmware answers: the measurement (64 bytes), the additional data that were asked for, the CUID (16)."""

    measurement: bytes
    additional: bytes
    cuid: bytes


@dataclass(frozen=True, slots=True)
class AttestationFile:
    """The parts, empty where they are absent; and how many bytes of a part are expected, where a request says it."""

    request: bytes
    measurement: bytes = b""
    additional: bytes = b""
    user_data: bytes = b""
    cuid: bytes = b""
    expected: dict[str, int] = field(default_factory=dict)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a file. Raises Malformed for anything that is not one, and for a part beyond its limit or the file."""
        cursor = Cursor(data)
        if cursor.take(len(MAGIC)) != MAGIC:
            raise Malformed(f"not an attestation file: it does not begin with `{MAGIC.decode()}`")
        if (version := cursor.number(4)) != VERSION:
            raise Malformed(f"version {version:#x}, only {VERSION:#x} is known")
        if (total := cursor.number(4)) != len(data):
            raise Malformed(f"the file says it has {total} bytes, {len(data)} are there")
        cursor.reserved(8)
        if cursor.used_reserved:
            raise Malformed("a reserved field is not zero")
        parts, expected = {}, {}
        for name, limit in _LIMITS.items():
            length, offset = cursor.number(4), cursor.number(4)
            parts[name] = _part(data, name, length, offset, limit)
            if length and not offset:
                expected[name] = length
        if not parts["request"]:
            raise Malformed("the file has no attestation request")
        return cls(**parts, expected=expected)

    def encode(self) -> bytes:
        """The file's bytes: the parts one after the other."""
        entries, data = b"", b""
        for name in _LIMITS:
            part: bytes = getattr(self, name)
            length = len(part) or self.expected.get(name, 0)
            offset = HEAD_LENGTH + len(data) if part else 0
            entries += length.to_bytes(4, "big") + offset.to_bytes(4, "big")
            data += part
        total = HEAD_LENGTH + len(data)
        return MAGIC + VERSION.to_bytes(4, "big") + total.to_bytes(4, "big") + bytes(8) + entries + data


def _part(data: bytes, name: str, length: int, offset: int, limit: int) -> bytes:
    if length > limit:
        raise Malformed(f"the {name} has {length} bytes, {limit} at most")
    if not length or not offset:
        return b""
    if offset < HEAD_LENGTH or offset + length > len(data):
        raise Malformed(f"the {name} at {offset:#x} is not within the file")
    return data[offset : offset + length]
