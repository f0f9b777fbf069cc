"""The attestation request control block (ARCB), version 1: read, checked, opened with a host key or its own, built.

Pure: keys and everything random come in as arguments. The single checks stand one by one, so that a firmware can give
each its own return code; `parse` makes all of them. What is measured is not known here (formats, C.6).

    000  8   magic, zeros            030  8  flags                  0e0  80·nks  key slots
    008  4   version 00000100        038  4  algorithm              ...  64      encrypted: measurement key
    00c  4   total length            03c  4  reserved               ...  16      encrypted: nonce, if flagged
    010  12  GCM IV                  040  160 customer public key   ...  16      GCM tag
    01c  11  reserved, then nks (1), reserved (4), encrypted length (4)
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvisor_guest.wire.asrcb import FreshKeys
from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import CannotDecrypt, Malformed, Unbuildable
from keyvisor_guest.wire.key_slots import SLOT_LENGTH, KeySlot, addressed_key, unwrap_for, wrap_for
from keyvisor_guest.wire.p521 import POINT_LENGTH, encode_point

__all__ = [
    "ADDITIONS",
    "ATTESTATION_FLAGS",
    "AddData",
    "AttestationBlock",
    "AttestationContents",
    "additional_length",
    "build",
    "check_algorithm",
    "check_flags",
    "check_lengths",
    "check_reserved",
    "check_sealed_length",
    "check_slot_count",
    "check_transport",
    "check_version",
    "flag_bits",
    "open_request",
    "parse",
    "read_block",
    "read_head",
    "unseal",
]

MAGIC: Final = bytes(8)
VERSION: Final = 0x100
MAX_ARCB: Final = 0x100000  # bytes; what the device takes in one call
HMAC_SHA_512: Final = 1
MEASUREMENT_KEY_LENGTH: Final = 64
NONCE_LENGTH: Final = 16

_IV_LENGTH: Final = 12
_TAG_LENGTH: Final = 16
_SLOTS_AT: Final = 0xE0
_NONCE_FLAG: Final = 1 << 62


class AddData(enum.StrEnum):
    """What a request can ask to have measured besides, as people write it; in the order of the additional data."""

    IMAGE_HOST_KEY = "phkh-img"
    ATTESTATION_HOST_KEY = "phkh-att"
    SECRET_STORE_HASH = "secret-store-hash"  # noqa: S105  # the name of a hash
    FIRMWARE_STATE = "firmware-state"


@dataclass(frozen=True, slots=True)
class Addition:
    """The flag that asks for it, and how many bytes it has in the additional data."""

    flag: int
    length: int


ADDITIONS: Final[Mapping[AddData, Addition]] = MappingProxyType(
    {
        AddData.IMAGE_HOST_KEY: Addition(1 << 61, 32),
        AddData.ATTESTATION_HOST_KEY: Addition(1 << 60, 32),
        AddData.SECRET_STORE_HASH: Addition(1 << 59, 64),
        AddData.FIRMWARE_STATE: Addition(1 << 58, 320),
    }
)


@dataclass(frozen=True, slots=True)
class AttestationHead:
    """The first 30h bytes: what the lengths of everything else follow from."""

    magic: bytes
    version: int
    total_length: int
    iv: bytes
    slot_count: int
    sealed_length: int


@dataclass(frozen=True, slots=True)
class AttestationBlock:
    """A request as it was received. `used_reserved` are the offsets of reserved fields that are not zero.

    `associated` are the received bytes before the encrypted area, `sealed` the ciphertext without its tag.
    """

    iv: bytes
    flags: int
    algorithm: int
    customer_key: bytes
    slots: tuple[KeySlot, ...]
    associated: bytes = field(repr=False)
    sealed: bytes = field(repr=False)
    tag: bytes
    used_reserved: tuple[int, ...]

    @property
    def has_nonce(self) -> bool:
        """Whether the flags say that a nonce is encrypted."""
        return bool(self.flags & _NONCE_FLAG)

    @property
    def asked(self) -> tuple[AddData, ...]:
        """What is to be measured besides, in the order of the additional data."""
        return tuple(name for name, row in ADDITIONS.items() if self.flags & row.flag)

    def encode(self) -> bytes:
        """The received bytes."""
        return self.associated + self.sealed + self.tag


@dataclass(frozen=True, slots=True)
class AttestationContents:
    """What is encrypted: the measurement key (64 bytes), and the nonce (16), None where there is none."""

    measurement_key: bytes = field(repr=False)
    nonce: bytes | None


def check_transport(data: bytes) -> None:
    """Raises Malformed above MAX_ARCB bytes: no more of a request is ever looked at."""
    if len(data) > MAX_ARCB:
        raise Malformed(f"a request has at most {MAX_ARCB} bytes, this one {len(data)}")


def read_head(data: bytes) -> AttestationHead:
    """Read the first 30h bytes. Raises Truncated where they are not there; judges none of the values."""
    return _take_head(Cursor(data))


def _take_head(cursor: Cursor) -> AttestationHead:
    magic, version, total_length = cursor.take(len(MAGIC)), cursor.number(4), cursor.number(4)
    iv = cursor.take(_IV_LENGTH)
    cursor.reserved(4)
    cursor.reserved(7)
    slot_count = cursor.number(1)
    cursor.reserved(4)
    return AttestationHead(magic, version, total_length, iv, slot_count, sealed_length=cursor.number(4))


def check_version(head: AttestationHead) -> None:
    """Raises Malformed for what is not an attestation request of version 1."""
    if head.magic != MAGIC:
        raise Malformed("not an attestation request: it does not begin with eight zero bytes")
    if head.version != VERSION:
        raise Malformed(f"version {head.version:#x}, only {VERSION:#x} is known")


def check_slot_count(head: AttestationHead) -> None:
    """Raises Malformed for a request without key slots. More than 255 cannot be said in it."""
    if head.slot_count == 0:
        raise Malformed("the request is for no host key")


def check_lengths(head: AttestationHead, available: int) -> None:
    """Raises Malformed where total, encrypted area and slots do not add up to each other and to `available` bytes."""
    if head.total_length != available:
        raise Malformed(f"the request says it has {head.total_length} bytes, {available} are there")
    if _SLOTS_AT + SLOT_LENGTH * head.slot_count + head.sealed_length + _TAG_LENGTH != head.total_length:
        raise Malformed(f"{head.slot_count} key slots and {head.sealed_length} encrypted bytes do not add up")


def read_block(data: bytes) -> AttestationBlock:
    """Read a whole request. Raises Malformed for lengths that do not add up. Judges no other value."""
    cursor = Cursor(data)
    head = _take_head(cursor)
    check_lengths(head, len(data))
    flags, algorithm = cursor.number(8), cursor.number(4)
    cursor.reserved(4)
    customer_key = cursor.take(POINT_LENGTH)
    slots = tuple(KeySlot.read(cursor) for _ in range(head.slot_count))
    associated = data[: len(data) - cursor.left]
    sealed, tag = cursor.take(head.sealed_length), cursor.take(_TAG_LENGTH)
    cursor.end()
    return AttestationBlock(
        head.iv, flags, algorithm, customer_key, slots, associated, sealed, tag, cursor.used_reserved
    )


def check_sealed_length(block: AttestationBlock) -> None:
    """Raises Malformed where not a measurement key, and a nonce if one is flagged, are encrypted."""
    wanted = MEASUREMENT_KEY_LENGTH + (NONCE_LENGTH if block.has_nonce else 0)
    if len(block.sealed) != wanted:
        raise Malformed(f"{len(block.sealed)} bytes are encrypted, the flags ask for {wanted}")


def check_flags(block: AttestationBlock) -> None:
    """Raises Malformed for a flag that is not known."""
    if unknown := block.flags & ~ATTESTATION_FLAGS:
        raise Malformed(f"unknown flags {unknown:016x}")


def check_algorithm(block: AttestationBlock) -> None:
    """Raises Malformed for another algorithm than HMAC-SHA-512."""
    if block.algorithm != HMAC_SHA_512:
        raise Malformed(
            f"measurement algorithm {block.algorithm}, only {HMAC_SHA_512} (HMAC-SHA-512) is known"
        )


def check_reserved(block: AttestationBlock) -> None:
    """Raises Malformed where a reserved field is not zero."""
    if block.used_reserved:
        raise Malformed(f"the reserved field at {block.used_reserved[0]:#x} is not zero")


def parse(data: bytes) -> AttestationBlock:
    """Read a request and hold it against everything that can be seen without a key. Raises Malformed."""
    check_transport(data)
    head = read_head(data)
    check_version(head)
    check_slot_count(head)
    block = read_block(data)
    for check in (check_sealed_length, check_flags, check_algorithm, check_reserved):
        check(block)
    return block


def flag_bits(asked: Sequence[AddData] | type[AddData]) -> int:
    """The flags that ask for these."""
    return sum(ADDITIONS[name].flag for name in frozenset(asked))


ATTESTATION_FLAGS: Final = _NONCE_FLAG | flag_bits(AddData)  # all that there are


def additional_length(asked: Sequence[AddData]) -> int:
    """How many bytes of additional data an answer to a request for these has."""
    return sum(ADDITIONS[name].length for name in asked)


def open_request(
    block: AttestationBlock, host_keys: Sequence[ec.EllipticCurvePrivateKey]
) -> tuple[AttestationContents, bytes]:
    """What is encrypted, and the hash (32 bytes) of the host key that opened it. Raises CannotDecrypt."""
    contents = unseal(block, unwrap_for(host_keys, block.customer_key, block.slots))
    return contents, addressed_key(host_keys, block.slots)


def unseal(block: AttestationBlock, key: bytes) -> AttestationContents:
    """Decrypt with the request's protection key (32 bytes): what its owner has kept.

    Raises CannotDecrypt unless every byte is as it was made.
    """
    try:
        clear = AESGCM(key).decrypt(block.iv, block.sealed + block.tag, block.associated)
    except InvalidTag as error:
        raise CannotDecrypt("it is not as it was made") from error
    return AttestationContents(clear[:MEASUREMENT_KEY_LENGTH], clear[MEASUREMENT_KEY_LENGTH:] or None)


def build(
    contents: AttestationContents,
    asked: Sequence[AddData],
    fresh: FreshKeys,
    host_keys: Sequence[ec.EllipticCurvePublicKey],
) -> bytes:
    """The bytes of a request that any of `host_keys` (1 to 255, P-521) can answer. Same arguments, same bytes.

    Raises Unbuildable for other lengths, HostKeyUnusable for another curve.
    """
    nonce = contents.nonce or b""
    if len(contents.measurement_key) != MEASUREMENT_KEY_LENGTH or len(nonce) not in (0, NONCE_LENGTH):
        raise Unbuildable(
            f"a measurement key has {MEASUREMENT_KEY_LENGTH} bytes, and a nonce {NONCE_LENGTH} where there is one"
        )
    if len(fresh.iv) != _IV_LENGTH:
        raise Unbuildable(f"the IV has {_IV_LENGTH} bytes, not {len(fresh.iv)}")
    slots = wrap_for(host_keys, fresh.customer_key, fresh.request_key)
    clear = contents.measurement_key + nonce
    total = _SLOTS_AT + SLOT_LENGTH * len(slots) + len(clear) + _TAG_LENGTH
    flags = flag_bits(asked) | (_NONCE_FLAG if nonce else 0)
    associated = b"".join(
        (
            MAGIC,
            VERSION.to_bytes(4, "big"),
            total.to_bytes(4, "big"),
            fresh.iv,
            bytes(4 + 7),
            len(slots).to_bytes(1, "big"),
            bytes(4),
            len(clear).to_bytes(4, "big"),
            flags.to_bytes(8, "big"),
            HMAC_SHA_512.to_bytes(4, "big"),
            bytes(4),
            encode_point(fresh.customer_key.public_key()),
            *(slot.encode() for slot in slots),
        )
    )
    return associated + AESGCM(fresh.request_key).encrypt(fresh.iv, clear, associated)
