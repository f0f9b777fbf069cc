"""The secret store's state as bytes, in one canonical form. They hold secrets in clear: seal them before writing.

Version 2, all numbers big-endian:

    off  len   field
    00   8     "kvsecret"
    08   4     version, 2
    0c   4     flags: bit 0 (lowest) locked, bit 1 dump disabled, bit 2 the extension secret is fixed,
               bit 3 the CCK was replaced, bit 4 the wrapping key was made
    10   4     number of entries
    14   4     number of request tags
    18   32    extension secret; zero where it is not fixed
    38   32    CCK; zero where it was not replaced
    58   64    wrapping key; zero where it was not made
    98         entries, each: u16 kind, u16 zero, u32 length, id (32), value (length)
    ..   16·n  request tags

Version 1 ends at 38h with the entries and knows the lower three flags only; it is read and not written. In either
version a state has one encoding: `decode_state` refuses everything that an encoder would not have written.
"""

from __future__ import annotations

from typing import Final

from keyvisor_firmware.secrets.errors import StateBroken
from keyvisor_firmware.secrets.protected_keys import WRAPPING_KEY_LENGTH
from keyvisor_firmware.secrets.store_state import StoredSecret, StoreState
from keyvisor_guest.wire.asrcb_layout import TAG_LENGTH
from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.secret_ids import CCK_LENGTH, EXTENSION_LENGTH, ID_LENGTH, SecretId
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind

__all__ = ["MAX_ENTRIES", "MAX_REQUESTS", "decode_state", "encode_state", "longest_state"]

MAGIC: Final = b"kvsecret"
VERSION: Final = 2
MAX_ENTRIES: Final = 0xFFFF  # a list's total is a u16
MAX_REQUESTS: Final = 0x100000

_HEAD_LENGTH: Final = 0x98
_ENTRY_HEAD_LENGTH: Final = 8 + ID_LENGTH

_LOCKED: Final = 1
_DUMP_DISABLED: Final = 2
_EXTENSION_FIXED: Final = 4
_CCK_REPLACED: Final = 8
_WRAPPING_KEY_MADE: Final = 16

# The flags that a version knows.
_FLAGS: Final = {1: 0b00111, VERSION: 0b11111}


def encode_state(state: StoreState) -> bytes:
    """The bytes of a state, as the module's docstring lays them out."""
    return b"".join(
        (
            MAGIC,
            VERSION.to_bytes(4, "big"),
            _flags(state).to_bytes(4, "big"),
            len(state.entries).to_bytes(4, "big"),
            len(state.request_tags).to_bytes(4, "big"),
            state.extension_secret or bytes(EXTENSION_LENGTH),
            state.cck or bytes(CCK_LENGTH),
            state.wrapping_key or bytes(WRAPPING_KEY_LENGTH),
            *(_encode_entry(entry) for entry in state.entries),
            *state.request_tags,
        )
    )


def _flags(state: StoreState) -> int:
    return (
        _LOCKED * state.locked
        | _DUMP_DISABLED * state.dump_disabled
        | _EXTENSION_FIXED * (state.extension_secret is not None)
        | _CCK_REPLACED * (state.cck is not None)
        | _WRAPPING_KEY_MADE * (state.wrapping_key is not None)
    )


def _encode_entry(entry: StoredSecret) -> bytes:
    head = entry.kind.to_bytes(2, "big") + bytes(2) + len(entry.value).to_bytes(4, "big")
    return head + entry.id + entry.value


def longest_state(association: int, retrievable: int, requests: int) -> int:
    """Bytes of the longest state with so many secrets of either sort and so many accepted requests."""
    longest_association = KINDS[SecretKind.ASSOCIATION].lengths[-1]
    longest_retrievable = max(row.lengths[-1] for row in KINDS.values() if row.retrievable)
    return (
        _HEAD_LENGTH
        + association * (_ENTRY_HEAD_LENGTH + longest_association)
        + retrievable * (_ENTRY_HEAD_LENGTH + longest_retrievable)
        + requests * TAG_LENGTH
    )


def decode_state(data: bytes) -> StoreState:
    """The state that `data` was made from. Raises StateBroken for anything else."""
    try:
        return _decode(Cursor(data))
    except Malformed as error:
        raise StateBroken(f"not the state of a secret store: {error}") from error


def _decode(cursor: Cursor) -> StoreState:
    magic, version = cursor.take(len(MAGIC)), cursor.number(4)
    if magic != MAGIC or version not in _FLAGS:
        raise Malformed(f"it does not begin with `{MAGIC.decode()}` and version 1 or {VERSION}")
    flags, entries, tags = cursor.number(4), cursor.number(4), cursor.number(4)
    if flags & ~_FLAGS[version] or entries > MAX_ENTRIES or tags > MAX_REQUESTS:
        raise Malformed("a flag is unknown or a count too large")
    extension_secret = _optional(cursor, EXTENSION_LENGTH, flags & _EXTENSION_FIXED)
    cck = wrapping_key = None
    if version == VERSION:
        cck = _optional(cursor, CCK_LENGTH, flags & _CCK_REPLACED)
        wrapping_key = _optional(cursor, WRAPPING_KEY_LENGTH, flags & _WRAPPING_KEY_MADE)
    state = StoreState(
        entries=tuple(_decode_entry(cursor) for _ in range(entries)),
        extension_secret=extension_secret,
        locked=bool(flags & _LOCKED),
        dump_disabled=bool(flags & _DUMP_DISABLED),
        request_tags=tuple(cursor.take(TAG_LENGTH) for _ in range(tags)),
        cck=cck,
        wrapping_key=wrapping_key,
    )
    cursor.end()
    if wrapping_key is None and any(KINDS[entry.kind].is_key for entry in state.entries):
        raise Malformed("keys, and nothing to wrap them under")
    return state


def _optional(cursor: Cursor, length: int, there: int) -> bytes | None:
    value = cursor.take(length)
    if not there and any(value):
        raise Malformed("a value that the flags say is not there")
    return value if there else None


def _decode_entry(cursor: Cursor) -> StoredSecret:
    row = KINDS.get(cursor.number(2))
    cursor.reserved(2)
    length = cursor.number(4)
    if row is None or not row.listed or length not in row.lengths or cursor.used_reserved:
        raise Malformed("an entry that no store holds")
    return StoredSecret(row.kind, SecretId(cursor.take(ID_LENGTH)), cursor.take(length))
