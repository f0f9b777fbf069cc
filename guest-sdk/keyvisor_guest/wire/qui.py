"""The query block: which calls a firmware knows, how much storage it needs, and its limits (formats, D.1).

    answer:   rc, block = encode_query(query, room)
    read it:  query = decode_query(block)

The block is 120h bytes and begins with the head of every call: u16 length, u16 command, u16 response code, u16 reason.
A caller may have less room, but not less than a8h. Knows no amount's reason and no call's effect.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from keyvisor_guest.wire.errors import Malformed, QueryTooShort, Truncated

__all__ = [
    "CALL_BITS",
    "MIN_QUERY",
    "QUERY_LENGTH",
    "RC_EXECUTED",
    "RC_MORE_DATA",
    "RC_TOO_SHORT",
    "StorageQuery",
    "UvCommand",
    "decode_query",
    "encode_query",
]

QUERY_LENGTH: Final = 0x120
MIN_QUERY: Final = 0xA8  # shorter blocks are not answered
RC_EXECUTED: Final = 0x0001
RC_TOO_SHORT: Final = QueryTooShort.rc
RC_MORE_DATA: Final = 0x0100

_HEAD_LENGTH: Final = 8
_MAX_LENGTH_FIELD: Final = 0xFFFF
_CALLS_AT: Final = 0x10
_CALLS_LENGTH: Final = 32
_PAGE: Final = 4096
_MIB: Final = 1 << 20


class UvCommand(enum.IntEnum):
    """Ultravisor calls by their command numbers, those that this project answers (formats, C.1 and D; Linux' uv.h)."""

    QUERY = 0x0001
    QUERY_KEYS = 0x0002
    INIT = 0x000F
    CREATE_GUEST = 0x0100
    DESTROY_GUEST = 0x0101
    CREATE_CPU = 0x0120
    DESTROY_CPU = 0x0121
    IMPORT_PAGE = 0x0200
    EXPORT_PAGE = 0x0201
    SET_PARAMETERS = 0x0300
    UNPACK = 0x0301
    VERIFY = 0x0302
    SET_CPU_STATE = 0x0330
    ATTEST = 0x1020
    ADD_SECRET = 0x1031
    LIST_SECRETS = 0x1033
    LOCK_SECRETS = 0x1034
    RETRIEVE_SECRET = 0x1035


# Which of the installed-call bits stands for a command; bit 0 is the first byte's highest.
CALL_BITS: Final[Mapping[UvCommand, int]] = MappingProxyType(
    {
        UvCommand.QUERY: 0,
        UvCommand.INIT: 1,
        UvCommand.CREATE_GUEST: 2,
        UvCommand.DESTROY_GUEST: 3,
        UvCommand.CREATE_CPU: 4,
        UvCommand.DESTROY_CPU: 5,
        UvCommand.IMPORT_PAGE: 6,
        UvCommand.EXPORT_PAGE: 7,
        UvCommand.SET_PARAMETERS: 11,
        UvCommand.UNPACK: 13,
        UvCommand.VERIFY: 14,
        UvCommand.SET_CPU_STATE: 17,
        UvCommand.ATTEST: 28,
        UvCommand.ADD_SECRET: 29,
        UvCommand.LIST_SECRETS: 30,
        UvCommand.LOCK_SECRETS: 31,
        UvCommand.RETRIEVE_SECRET: 33,
        UvCommand.QUERY_KEYS: 34,
    }
)


@dataclass(frozen=True, slots=True)
class StorageQuery:
    """What a query is answered with. Lengths and addresses are bytes; what the block does not reach is 0.

    `zone_base` is donated once, `guest_base` (absolute) and the variable area for each guest, `cpu` for each CPU: each
    is an area of its own. `max_address` is where guest storage ends at the latest. `features`, versions and flags are
    bit fields of 64 bits, bit 0 the highest; bit n of `secret_types` stands for type n. `calls` are those that are
    installed; bits that stand for no UvCommand are passed over.
    """

    zone_base: int
    guest_base: int
    guest_base_virtual: int
    guest_per_mib: int
    cpu: int
    max_guests: int
    max_address: int
    max_cpu_id: int
    features: int = 0
    calls: frozenset[UvCommand] = frozenset()
    header_versions: int = 0
    control_flags: int = 0
    dump_storage_state: int = 0
    dump_finalize: int = 0
    attestation_versions: int = 0
    attestation_flags: int = 0
    add_secret_versions: int = 0
    add_secret_flags: int = 0
    secret_types: int = 0
    max_association_secrets: int = 0
    max_retrievable_secrets: int = 0

    def guest_virtual(self, storage_length: int) -> int:
        """The variable area of a guest with so much storage: a part of a MiB is not charged, pages are whole (D.3)."""
        variable = storage_length // _MIB * self.guest_per_mib
        return self.guest_base_virtual + -(-variable // _PAGE) * _PAGE


# Offset and length of every number, by its name.
_NUMBERS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "zone_base": (0x40, 8),
        "guest_base": (0x50, 8),
        "guest_base_virtual": (0x58, 8),
        "guest_per_mib": (0x60, 8),
        "cpu": (0x68, 8),
        "max_guests": (0x7C, 4),
        "max_address": (0x80, 8),
        "max_cpu_id": (0x9E, 2),
        "features": (0xA0, 8),
        "header_versions": (0xB0, 8),
        "control_flags": (0xB8, 8),
        "dump_storage_state": (0xC8, 8),
        "dump_finalize": (0xD0, 8),
        "attestation_versions": (0xE0, 8),
        "attestation_flags": (0xE8, 8),
        "add_secret_versions": (0xF8, 8),
        "add_secret_flags": (0x100, 8),
        "secret_types": (0x108, 8),
        "max_association_secrets": (0x110, 2),
        "max_retrievable_secrets": (0x112, 2),
    }
)


def encode_query(query: StorageQuery, room: int) -> tuple[int, bytes]:
    """The response code and the block for a caller with `room` bytes: at most QUERY_LENGTH, else as much as fits.

    RC_EXECUTED, or RC_MORE_DATA where the block was cut. Raises QueryTooShort for less than MIN_QUERY.
    """
    if room < MIN_QUERY:
        raise QueryTooShort(
            f"the query block needs {MIN_QUERY:#x} bytes at least, {room:#x} are there; "
            f"{QUERY_LENGTH:#x} hold all of it ({RC_TOO_SHORT:#06x})"
        )
    rc = RC_EXECUTED if room >= QUERY_LENGTH else RC_MORE_DATA
    block = bytearray(QUERY_LENGTH)
    head = (min(room, _MAX_LENGTH_FIELD), UvCommand.QUERY, rc, 0)
    block[:_HEAD_LENGTH] = b"".join(number.to_bytes(2, "big") for number in head)
    calls = sum(1 << (8 * _CALLS_LENGTH - 1 - CALL_BITS[call]) for call in query.calls)
    block[_CALLS_AT : _CALLS_AT + _CALLS_LENGTH] = calls.to_bytes(_CALLS_LENGTH, "big")
    for name, (at, length) in _NUMBERS.items():
        block[at : at + length] = getattr(query, name).to_bytes(length, "big")
    return rc, bytes(block[:room])


def decode_query(block: bytes) -> StorageQuery:
    """What a block says. A number that the block does not hold whole is 0; what follows QUERY_LENGTH is passed over.

    Raises Truncated for less than MIN_QUERY bytes, Malformed for the head of no answered query.
    """
    if len(block) < MIN_QUERY:
        raise Truncated(f"a query block has {MIN_QUERY:#x} bytes at least, {len(block):#x} are there")
    length, command, rc, _ = (int.from_bytes(block[at : at + 2], "big") for at in range(0, _HEAD_LENGTH, 2))
    if command != UvCommand.QUERY or rc not in (RC_EXECUTED, RC_MORE_DATA) or length < MIN_QUERY:
        raise Malformed("not the head of a query block that was answered")
    numbers = {
        name: int.from_bytes(block[at : at + size], "big") if at + size <= len(block) else 0
        for name, (at, size) in _NUMBERS.items()
    }
    installed = int.from_bytes(block[_CALLS_AT : _CALLS_AT + _CALLS_LENGTH], "big")
    calls = (call for call, bit in CALL_BITS.items() if installed >> (8 * _CALLS_LENGTH - 1 - bit) & 1)
    return StorageQuery(calls=frozenset(calls), **numbers)
