"""The add-secret request control block, version 1: its fields, how they are read and how they are written.

Everything here is public: this module never sees a secret and holds no key (formats, A.1 and A.3). The checks
of values are in `asrcb_checks`; only that the lengths add up is held here, because nothing can be read before.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self

from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.key_slots import SLOT_LENGTH, KeySlot
from keyvisor_guest.wire.p521 import POINT_LENGTH
from keyvisor_guest.wire.secret_ids import EXTENSION_LENGTH, ID_LENGTH, SecretId

__all__ = [
    "ANY_INSTANCE",
    "CUID_LENGTH",
    "FLAG_BITS",
    "IV_LENGTH",
    "MAGIC",
    "MAX_REQUEST",
    "NO_USER_DATA",
    "TAG_LENGTH",
    "USER_DATA_AT",
    "USER_DATA_LENGTH",
    "VERSION",
    "ControlBlock",
    "Flag",
    "Head",
    "PublicPart",
    "SecretHeader",
    "UserData",
    "UserDataKind",
    "check_lengths",
    "check_transport",
    "read_block",
    "read_head",
]

MAGIC: Final = b"asrcbM"
VERSION: Final = 0x100
MAX_REQUEST: Final = 0x100000  # bytes; what the device takes in one call
IV_LENGTH: Final = 12
TAG_LENGTH: Final = 16
CUID_LENGTH: Final = 16
USER_DATA_AT: Final = 0x218
USER_DATA_LENGTH: Final = 512

ANY_INSTANCE: Final = bytes(CUID_LENGTH)

_RESERVED_BEFORE_USER_DATA: Final = 256
_SLOTS_AT: Final = 0x4B8
_NULL_HEADER_LENGTH: Final = 16
_ID_HEADER_LENGTH: Final = _NULL_HEADER_LENGTH + ID_LENGTH


class UserDataKind(enum.IntEnum):
    """What the user-data area holds (formats, A.6). The area itself is opaque here."""

    NONE = 0
    UNSIGNED = 1
    EC_P521 = 2
    RSA_2048 = 3
    RSA_3072 = 4


class Flag(enum.StrEnum):
    """What a request can ask for besides its secret, as people write it."""

    DISABLE_DUMP = "disable-dump"


FLAG_BITS: Final[Mapping[Flag, int]] = MappingProxyType({Flag.DISABLE_DUMP: 1 << 63})


@dataclass(frozen=True, slots=True)
class Head:
    """The first 30h bytes: what the lengths of everything else follow from."""

    magic: bytes
    user_data_kind: int
    version: int
    total_length: int
    iv: bytes
    slot_count: int
    sealed_length: int

    @property
    def secret_header_length(self) -> int:
        """What the lengths leave for the secret header; below zero where they contradict each other."""
        return self.total_length - TAG_LENGTH - self.sealed_length - _SLOTS_AT - SLOT_LENGTH * self.slot_count


@dataclass(frozen=True, slots=True)
class UserData:
    """The user-data kind and its 512 bytes."""

    kind: int
    area: bytes


NO_USER_DATA: Final = UserData(UserDataKind.NONE, bytes(USER_DATA_LENGTH))


@dataclass(frozen=True, slots=True)
class SecretHeader:
    """Kind and clear length of the secret, and its id: 32 bytes, None where the kind has none."""

    kind: int
    length: int
    id: SecretId | None

    @classmethod
    def read(cls, cursor: Cursor, header_length: int) -> Self:
        """Take the 16 or 48 bytes from `cursor`. Raises Truncated."""
        cursor.reserved(2)
        kind, length = cursor.number(2), cursor.number(4)
        cursor.reserved(8)
        has_id = header_length == _ID_HEADER_LENGTH
        return cls(kind, length, SecretId(cursor.take(ID_LENGTH)) if has_id else None)

    def encode(self) -> bytes:
        """The header's 16 or 48 bytes."""
        return (
            bytes(2)
            + self.kind.to_bytes(2, "big")
            + self.length.to_bytes(4, "big")
            + bytes(8)
            + (self.id or b"")
        )


@dataclass(frozen=True, slots=True)
class PublicPart:
    """Everything before the encrypted area. `flags` is the u64, `customer_key` the point's 160 bytes."""

    iv: bytes
    user_data: UserData
    flags: int
    identity: BootIdentity
    cuid: bytes
    customer_key: bytes
    slots: tuple[KeySlot, ...]
    secret: SecretHeader

    def encode(self) -> bytes:
        """The associated data, byte for byte as it was read where the reserved fields were zero."""
        header = self.secret.encode()
        sealed_length = self.secret.length + EXTENSION_LENGTH
        total = _SLOTS_AT + SLOT_LENGTH * len(self.slots) + len(header) + sealed_length + TAG_LENGTH
        return b"".join(
            (
                MAGIC,
                self.user_data.kind.to_bytes(2, "big"),
                VERSION.to_bytes(4, "big"),
                total.to_bytes(4, "big"),
                self.iv,
                bytes(4 + 7),
                len(self.slots).to_bytes(1, "big"),
                bytes(4),
                sealed_length.to_bytes(4, "big"),
                self.flags.to_bytes(8, "big"),
                self.identity.encode(),
                self.cuid,
                bytes(_RESERVED_BEFORE_USER_DATA),
                self.user_data.area,
                self.customer_key,
                *(slot.encode() for slot in self.slots),
                header,
            )
        )


@dataclass(frozen=True, slots=True)
class ControlBlock:
    """A request as it was received. `used_reserved` are the offsets of reserved fields that are not zero.

    `associated` are the received bytes before the encrypted area, `sealed` the ciphertext without its tag.
    """

    public: PublicPart
    associated: bytes = field(repr=False)
    sealed: bytes = field(repr=False)
    tag: bytes
    used_reserved: tuple[int, ...]


def check_transport(data: bytes) -> None:
    """Raises Malformed above MAX_REQUEST bytes: no more of a request is ever looked at."""
    if len(data) > MAX_REQUEST:
        raise Malformed(f"a request has at most {MAX_REQUEST} bytes, this one {len(data)}")


def read_head(data: bytes) -> Head:
    """Read the first 30h bytes of a request. Raises Truncated where they are not there; judges none of the values."""
    return _take_head(Cursor(data))


def _take_head(cursor: Cursor) -> Head:
    magic, user_data_kind = cursor.take(len(MAGIC)), cursor.number(2)
    version, total_length, iv = cursor.number(4), cursor.number(4), cursor.take(IV_LENGTH)
    cursor.reserved(4)
    cursor.reserved(7)
    slot_count = cursor.number(1)
    cursor.reserved(4)
    return Head(magic, user_data_kind, version, total_length, iv, slot_count, sealed_length=cursor.number(4))


def check_lengths(head: Head, available: int) -> None:
    """Raises Malformed where total, encrypted area and slots do not add up to each other or to `available` bytes."""
    if head.total_length != available:
        raise Malformed(f"the request says it has {head.total_length} bytes, {available} are there")
    if head.sealed_length < EXTENSION_LENGTH:
        raise Malformed(
            f"the encrypted area has {head.sealed_length} bytes, {EXTENSION_LENGTH} are the least"
        )
    if head.secret_header_length not in (_NULL_HEADER_LENGTH, _ID_HEADER_LENGTH):
        raise Malformed(f"{head.slot_count} key slots and {head.sealed_length} encrypted bytes do not add up")


def read_block(data: bytes) -> ControlBlock:
    """Read a whole request. Raises Malformed for lengths that do not add up, and where bytes are left over.

    Version, slot count, flags, reserved fields and the secret's length are not judged here.
    """
    cursor = Cursor(data)
    head = _take_head(cursor)
    check_lengths(head, len(data))
    public = _take_public(cursor, head)
    associated = data[: len(data) - cursor.left]
    sealed, tag = cursor.take(head.sealed_length), cursor.take(TAG_LENGTH)
    cursor.end()
    return ControlBlock(public, associated, sealed, tag, cursor.used_reserved)


def _take_public(cursor: Cursor, head: Head) -> PublicPart:
    flags, identity, cuid = cursor.number(8), BootIdentity.read(cursor), cursor.take(CUID_LENGTH)
    cursor.reserved(_RESERVED_BEFORE_USER_DATA)
    return PublicPart(
        iv=head.iv,
        user_data=UserData(head.user_data_kind, cursor.take(USER_DATA_LENGTH)),
        flags=flags,
        identity=identity,
        cuid=cuid,
        customer_key=cursor.take(POINT_LENGTH),
        slots=tuple(KeySlot.read(cursor) for _ in range(head.slot_count)),
        secret=SecretHeader.read(cursor, head.secret_header_length),
    )
