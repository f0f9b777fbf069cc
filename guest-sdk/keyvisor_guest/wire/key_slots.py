"""Key slots: one request protection key, wrapped once for each host that shall be able to read it (formats, A.2).

Add-secret requests and image headers carry the same slots. Knows neither of them, and makes no randomness.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import CannotDecrypt, Malformed, Unbuildable
from keyvisor_guest.wire.p521 import decode_point, public_key_hash, shared_secret

__all__ = [
    "KEY_LENGTH",
    "MAX_SLOTS",
    "SLOT_LENGTH",
    "KeySlot",
    "addressed_key",
    "key_encryption_key",
    "unwrap_for",
    "unwrap_slot",
    "wrap_for",
]

KEY_LENGTH: Final = 32  # AES-256
PHKH_LENGTH: Final = 32
TAG_LENGTH: Final = 16
SLOT_LENGTH: Final = PHKH_LENGTH + KEY_LENGTH + TAG_LENGTH
MAX_SLOTS: Final = 255

# Every wrap has this IV. That is safe only because the customer key, and with it the key-encryption key, is
# fresh in every request; under one customer key the same request key is wrapped in every slot.
_WRAP_IV: Final = bytes(12)


@dataclass(frozen=True, slots=True)
class KeySlot:
    """80 bytes: the host key's hash (32), the wrapped key (32), the GCM tag of the wrap (16)."""

    host_key_hash: bytes
    wrapped: bytes = field(repr=False)
    tag: bytes = field(repr=False)

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Take one slot from `cursor`. Raises Truncated."""
        return cls(cursor.take(PHKH_LENGTH), cursor.take(KEY_LENGTH), cursor.take(TAG_LENGTH))

    def encode(self) -> bytes:
        """The slot's 80 bytes."""
        return self.host_key_hash + self.wrapped + self.tag


def key_encryption_key(secret: bytes) -> bytes:
    """KEK = SHA-256(Z ‖ 00000001), 32 bytes: the first block of the X9.63 KDF without shared info, and not HKDF."""
    return hashlib.sha256(secret + b"\x00\x00\x00\x01").digest()


def wrap_for(
    host_keys: Iterable[ec.EllipticCurvePublicKey], customer_key: ec.EllipticCurvePrivateKey, key: bytes
) -> tuple[KeySlot, ...]:
    """One slot per host key, in their order, each wrapping the same 32-byte `key`.

    `customer_key` must never wrap a second key. Raises Unbuildable for no or too many host keys and for a key
    of another length, HostKeyUnusable for another curve than P-521.
    """
    if len(key) != KEY_LENGTH:
        raise Unbuildable(f"a request protection key has {KEY_LENGTH} bytes, not {len(key)}")
    slots = tuple(_wrap(host_key, customer_key, key) for host_key in host_keys)
    if not 1 <= len(slots) <= MAX_SLOTS:
        raise Unbuildable(f"a request is for 1 to {MAX_SLOTS} host keys, not {len(slots)}")
    return slots


def _wrap(
    host_key: ec.EllipticCurvePublicKey, customer_key: ec.EllipticCurvePrivateKey, key: bytes
) -> KeySlot:
    host_key_hash = public_key_hash(host_key)
    kek = key_encryption_key(shared_secret(customer_key, host_key))
    wrapped = AESGCM(kek).encrypt(_WRAP_IV, key, None)
    return KeySlot(host_key_hash, wrapped[:KEY_LENGTH], wrapped[KEY_LENGTH:])


def unwrap_for(
    host_keys: Sequence[ec.EllipticCurvePrivateKey], customer_point: bytes, slots: Iterable[KeySlot]
) -> bytes:
    """The key of the first slot that is addressed to one of `host_keys`: 32 bytes.

    A slot that carries our name and does not open ends it; no later one is tried. Raises CannotDecrypt, also
    for a customer key that is not on the curve: that is checked before anything is computed with it.
    """
    by_hash = {public_key_hash(key.public_key()): key for key in host_keys}
    for slot in slots:
        if (host_key := by_hash.get(slot.host_key_hash)) is not None:
            return unwrap_slot(slot, key_encryption_key(_agree(host_key, customer_point)))
    raise CannotDecrypt("no key slot is for this host's key")


def _agree(host_key: ec.EllipticCurvePrivateKey, customer_point: bytes) -> bytes:
    try:
        return shared_secret(host_key, decode_point(customer_point))
    except Malformed as error:
        raise CannotDecrypt(f"the customer key cannot be used: {error}") from error


def unwrap_slot(slot: KeySlot, kek: bytes) -> bytes:
    """The key that `slot` wraps, 32 bytes. Raises CannotDecrypt."""
    try:
        return AESGCM(kek).decrypt(_WRAP_IV, slot.wrapped + slot.tag, None)
    except InvalidTag as error:
        raise CannotDecrypt("it is not as it was made") from error


def addressed_key(host_keys: Sequence[ec.EllipticCurvePrivateKey], slots: Iterable[KeySlot]) -> bytes:
    """The hash (32 bytes) of the host key that `unwrap_for` takes. Raises CannotDecrypt where no slot is for one."""
    ours = {public_key_hash(key.public_key()) for key in host_keys}
    for slot in slots:
        if slot.host_key_hash in ours:
            return slot.host_key_hash
    raise CannotDecrypt("no key slot is for this host's key")
