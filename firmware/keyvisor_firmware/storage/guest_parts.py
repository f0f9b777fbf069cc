"""What a guest's record has several of: unpacked runs, CPUs, HSMs. All numbers big-endian (guest_record has the rest).

    unpacked run  32 bytes  u64 address, u64 length, tweak prefix (8), u64 offset
    CPU           24 bytes  u16 number, 6 zeros, u64 handle, u64 absolute origin
    HSM           40 bytes  u16 card, u16 domain, u8 state, u8 flags (1 secret index, 2 secret id), u16 index, id (32)

Every `read` takes one from a cursor and refuses what `encode` would not have written: it raises Malformed or ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from keyvisor_firmware.association.machine import State
from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.se_pages import TWEAK_PREFIX_LENGTH
from keyvisor_guest.wire.secret_ids import ID_LENGTH, SecretId
from keyvisor_hsm.cards import Apqn

RUN_LENGTH: Final = 32
CPU_LENGTH: Final = 24
HELD_LENGTH: Final = 40

_INDEX_GIVEN: Final = 1
_ID_GIVEN: Final = 2

# u8 1, 2, ...; an unbound HSM is not held.
_STATES: Final = (State.BOUND, State.PENDING, State.ASSOCIATED, State.FAILED)


@dataclass(frozen=True, slots=True)
class UnpackedRun:
    """Pages that were unpacked as one: `address` is the guest's, `length` in bytes, `tweak` the component's 8-byte prefix.

    `offset` (bytes) is the tweak's counter at the first page. Raises ValueError for a tweak of another length.
    """

    address: int
    length: int
    tweak: bytes
    offset: int

    def __post_init__(self) -> None:
        if len(self.tweak) != TWEAK_PREFIX_LENGTH:
            raise ValueError(f"a tweak prefix has {TWEAK_PREFIX_LENGTH} bytes")

    def encode(self) -> bytes:
        """The run's 32 bytes."""
        place = self.address.to_bytes(8, "big") + self.length.to_bytes(8, "big")
        return place + self.tweak + self.offset.to_bytes(8, "big")

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Take a run from `cursor`."""
        return cls(cursor.number(8), cursor.number(8), cursor.take(TWEAK_PREFIX_LENGTH), cursor.number(8))


@dataclass(frozen=True, slots=True)
class GuestCpu:
    """One of the guest's CPUs. `origin` is where its donated storage begins, host-absolute."""

    number: int
    handle: int
    origin: int

    def encode(self) -> bytes:
        """The CPU's 24 bytes."""
        return (
            self.number.to_bytes(2, "big")
            + bytes(6)
            + self.handle.to_bytes(8, "big")
            + self.origin.to_bytes(8, "big")
        )

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Take a CPU from `cursor`."""
        number, reserved = cursor.number(2), cursor.take(6)
        if any(reserved):
            raise Malformed("a CPU with a reserved field")
        return cls(number, cursor.number(8), cursor.number(8))


@dataclass(frozen=True, slots=True)
class HeldHsm:
    """What an HSM is to the guest that holds it. Index and id of the secret are given where it is associated.

    Raises ValueError for an HSM that is unbound, and for an id of another length than 32 bytes.
    """

    apqn: Apqn
    state: State
    secret_index: int | None = None
    secret_id: SecretId | None = None

    def __post_init__(self) -> None:
        if self.state not in _STATES or (self.secret_id is not None and len(self.secret_id) != ID_LENGTH):
            raise ValueError("no HSM that a guest holds is like this")

    def encode(self) -> bytes:
        """The HSM's 40 bytes."""
        flags = _INDEX_GIVEN * (self.secret_index is not None) | _ID_GIVEN * (self.secret_id is not None)
        numbers = (
            (self.apqn.card, 2),
            (self.apqn.domain, 2),
            (1 + _STATES.index(self.state), 1),
            (flags, 1),
            (self.secret_index or 0, 2),
        )
        head = b"".join(number.to_bytes(length, "big") for number, length in numbers)
        return head + (self.secret_id or bytes(ID_LENGTH))

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Take an HSM from `cursor`."""
        card, domain, state, flags = cursor.number(2), cursor.number(2), cursor.number(1), cursor.number(1)
        if not 1 <= state <= len(_STATES) or flags & ~(_INDEX_GIVEN | _ID_GIVEN):
            raise Malformed("an HSM in no state, or with an unknown flag")
        index = take_optional(cursor, 2, flags & _INDEX_GIVEN)
        secret_id = take_optional(cursor, ID_LENGTH, flags & _ID_GIVEN)
        return cls(
            Apqn(card, domain),
            _STATES[state - 1],
            None if index is None else int.from_bytes(index, "big"),
            None if secret_id is None else SecretId(secret_id),
        )


def take_optional(cursor: Cursor, length: int, there: int) -> bytes | None:
    """A value of `length` bytes where the flag `there` is set; else these are zero. Raises Malformed."""
    value = cursor.take(length)
    if not there and any(value):
        raise Malformed("a value that the flags say is not there")
    return value if there else None
