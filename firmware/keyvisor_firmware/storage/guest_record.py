"""What the firmware knows of one guest, as bytes in one canonical form: the content of the guest's base area.

They hold keys in clear: seal them before writing. Version 1, all numbers big-endian:

    off  len   field
    000  8     "kv guest"
    008  4     version, 1
    00c  4     flags: bit 0 (lowest) the guest opens after its lock, bit 1 the boot identity is known, bit 2 the CCK is
    010  1+31  length of the name, the name (ASCII), zeros
    030  16    instance id
    040  16    CUID
    050  1+39  length of the time of its start, that time (ISO 8601, UTC), zeros; length 0 before the start
    078  208   boot identity; zero where it is not known
    148  32    hash of the host key that its header was opened with; zeros before that
    168  32    customer communication key; zero where it is not known
    188  8     secret control flags
    190  64    memory key: AES-256-XTS, for the guest's pages at rest
    1d0  64    page key: AES-256-SIV, for pages that leave the guest
    210  8     how many versions of exported pages were given out
    218  2     association secrets that its variable area has room for
    21a  2     retrievable secrets, likewise
    21c  2     length of the image header; 0 where none is kept
    21e  2     number of unpacked runs
    220  2     number of CPUs
    222  2     number of HSMs that it holds
    224  4     zero
    228        the image header
    ..   32·n  unpacked runs, in their order (guest_parts)
    ..   24·n  CPUs, by number
    ..   40·n  HSMs, by APQN

A record has one encoding: `decode` refuses everything that `encode` would not have written. Knows no page, no seal and
no image key: that is in the header, for whoever has a host key.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self, TypeVar

from keyvisor_firmware.broker.state_page import MAX_HSMS
from keyvisor_firmware.config import MAX_CPUS
from keyvisor_firmware.errors import RecordBroken
from keyvisor_firmware.guests.instance import InstanceId
from keyvisor_firmware.storage.guest_parts import (
    CPU_LENGTH,
    HELD_LENGTH,
    RUN_LENGTH,
    GuestCpu,
    HeldHsm,
    UnpackedRun,
    take_optional,
)
from keyvisor_firmware.storage.paging import MEMORY_KEY_LENGTH, PAGE_KEY_LENGTH
from keyvisor_guest.wire.boot_identity import DIGEST_LENGTH, HEADER_TAG_LENGTH, BootIdentity
from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.names import GUEST_NAME
from keyvisor_guest.wire.se_header import MAX_HEADER
from keyvisor_guest.wire.secret_ids import CCK_LENGTH

__all__ = ["MAX_HELD", "MAX_RUNS", "GuestCpu", "GuestRecord", "HeldHsm", "UnpackedRun", "longest_record"]

MAX_RUNS: Final = 64
MAX_HELD: Final = MAX_HSMS
CUID_LENGTH: Final = 16
INSTANCE_LENGTH: Final = 16
HASH_LENGTH: Final = 32

_MAGIC: Final = b"kv guest"
_VERSION: Final = 1
_HEAD: Final = 0x228
_NAME: Final = 31
_STARTED: Final = 39
_IDENTITY: Final = 3 * DIGEST_LENGTH + HEADER_TAG_LENGTH

_OPENS_AFTER_LOCK: Final = 1
_IDENTITY_KNOWN: Final = 2
_CCK_KNOWN: Final = 4

_MOST: Final = (MAX_HEADER, MAX_RUNS, MAX_CPUS, MAX_HELD)  # the header's bytes, and of each sort of part

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class GuestRecord:
    """All that is kept in a guest's base area.

    `identity`, `host_key_hash`, `cck` and `scf` come from the image's header; `header` is kept while the guest boots, as
    are the `runs` (in the order of unpacking) until they are measured. `started` is empty before the start. The halves
    of `memory_key` differ: XTS demands it. `association_secrets` and `retrievable_secrets` are what the donation has
    room for. `page_versions` counts the exported pages: no version is given out twice, whichever the page.
    `cpus` are in the order of their numbers, `held` in that of their APQNs. Raises ValueError for what no
    guest is.
    """

    name: str
    instance: InstanceId
    cuid: bytes
    memory_key: bytes = field(repr=False)
    page_key: bytes = field(repr=False)
    association_secrets: int
    retrievable_secrets: int
    started: str = ""
    identity: BootIdentity | None = None
    host_key_hash: bytes = bytes(HASH_LENGTH)
    opens_after_lock: bool = False
    cck: bytes | None = field(default=None, repr=False)
    scf: int = 0
    page_versions: int = 0
    header: bytes | None = field(default=None, repr=False)
    runs: tuple[UnpackedRun, ...] = ()
    cpus: tuple[GuestCpu, ...] = ()
    held: tuple[HeldHsm, ...] = ()

    def __post_init__(self) -> None:
        wrong = [name for name, holds in _rules(self) if not holds]
        if wrong:
            raise ValueError(f"no guest's record: {', '.join(wrong)}")

    def encode(self) -> bytes:
        """The record's bytes, as the module's docstring lays them out."""
        flags = (
            _OPENS_AFTER_LOCK * self.opens_after_lock
            | _IDENTITY_KNOWN * (self.identity is not None)
            | _CCK_KNOWN * (self.cck is not None)
        )
        header = self.header or b""
        return b"".join(
            (
                _MAGIC,
                _VERSION.to_bytes(4, "big"),
                flags.to_bytes(4, "big"),
                _encode_text(self.name, _NAME),
                bytes.fromhex(self.instance),
                self.cuid,
                _encode_text(self.started, _STARTED),
                self.identity.encode() if self.identity is not None else bytes(_IDENTITY),
                self.host_key_hash,
                self.cck or bytes(CCK_LENGTH),
                self.scf.to_bytes(8, "big"),
                self.memory_key,
                self.page_key,
                self.page_versions.to_bytes(8, "big"),
                self.association_secrets.to_bytes(2, "big"),
                self.retrievable_secrets.to_bytes(2, "big"),
                *(len(part).to_bytes(2, "big") for part in (header, self.runs, self.cpus, self.held)),
                bytes(4),
                header,
                *(part.encode() for parts in (self.runs, self.cpus, self.held) for part in parts),
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The record that `data` was made from. Raises RecordBroken for anything else."""
        try:
            return cls._read(Cursor(data))
        except (Malformed, ValueError) as error:
            raise RecordBroken(f"not the record of a guest: {error}") from error

    @classmethod
    def _read(cls, cursor: Cursor) -> Self:
        if cursor.take(len(_MAGIC)) != _MAGIC or cursor.number(4) != _VERSION:
            raise Malformed(f"it does not begin with `{_MAGIC.decode()}` and version {_VERSION}")
        flags = cursor.number(4)
        if flags & ~(_OPENS_AFTER_LOCK | _IDENTITY_KNOWN | _CCK_KNOWN):
            raise Malformed("a flag is unknown")
        name, instance = _take_text(cursor, _NAME), cursor.take(INSTANCE_LENGTH)
        cuid, started = cursor.take(CUID_LENGTH), _take_text(cursor, _STARTED)
        identity = take_optional(cursor, _IDENTITY, flags & _IDENTITY_KNOWN)
        host_key_hash = cursor.take(HASH_LENGTH)
        cck, scf = take_optional(cursor, CCK_LENGTH, flags & _CCK_KNOWN), cursor.number(8)
        memory_key, page_key = cursor.take(MEMORY_KEY_LENGTH), cursor.take(PAGE_KEY_LENGTH)
        page_versions, association, retrievable = cursor.number(8), cursor.number(2), cursor.number(2)
        counts = [cursor.number(2) for _ in _MOST]
        cursor.reserved(4)
        if any(count > most for count, most in zip(counts, _MOST, strict=True)) or cursor.used_reserved:
            raise Malformed("a count is too large, or a reserved field used")
        header_length, runs, cpus, held = counts
        record = cls(
            name=name,
            instance=InstanceId(instance.hex()),
            cuid=cuid,
            memory_key=memory_key,
            page_key=page_key,
            association_secrets=association,
            retrievable_secrets=retrievable,
            started=started,
            identity=None if identity is None else BootIdentity.read(Cursor(identity)),
            host_key_hash=host_key_hash,
            opens_after_lock=bool(flags & _OPENS_AFTER_LOCK),
            cck=cck,
            scf=scf,
            page_versions=page_versions,
            header=cursor.take(header_length) or None,
            runs=_take_all(cursor, runs, UnpackedRun.read),
            cpus=_take_all(cursor, cpus, GuestCpu.read),
            held=_take_all(cursor, held, HeldHsm.read),
        )
        cursor.end()
        return record


def longest_record(cpus: int) -> int:
    """Bytes of the longest record of a guest with `cpus` CPUs: its header, runs and HSMs as many as there can be."""
    return _HEAD + MAX_HEADER + MAX_RUNS * RUN_LENGTH + cpus * CPU_LENGTH + MAX_HELD * HELD_LENGTH


def _rules(record: GuestRecord) -> Iterable[tuple[str, bool]]:
    keys = record.memory_key
    half = MEMORY_KEY_LENGTH // 2
    yield "name", re.fullmatch(GUEST_NAME, record.name) is not None
    yield "instance", re.fullmatch(rf"[0-9a-f]{{{2 * INSTANCE_LENGTH}}}", record.instance) is not None
    yield "cuid", len(record.cuid) == CUID_LENGTH
    yield "memory_key", len(keys) == MEMORY_KEY_LENGTH and keys[:half] != keys[half:]
    yield "page_key", len(record.page_key) == PAGE_KEY_LENGTH
    yield (
        "started",
        len(record.started) <= _STARTED and record.started.isascii() and record.started.isprintable(),
    )
    yield "host_key_hash", len(record.host_key_hash) == HASH_LENGTH
    yield "cck", record.cck is None or len(record.cck) == CCK_LENGTH
    yield "header", record.header is None or 0 < len(record.header) <= MAX_HEADER
    yield "runs", len(record.runs) <= MAX_RUNS
    yield "cpus", len(record.cpus) <= MAX_CPUS and _ascending([(cpu.number,) for cpu in record.cpus])
    apqns = [(held.apqn.card, held.apqn.domain) for held in record.held]
    yield "held", len(record.held) <= MAX_HELD and _ascending(apqns)


def _ascending(values: Sequence[tuple[int, ...]]) -> bool:
    return all(one < next_one for one, next_one in itertools.pairwise(values))


def _encode_text(text: str, room: int) -> bytes:
    return len(text).to_bytes(1, "big") + text.encode("ascii").ljust(room, b"\x00")


def _take_text(cursor: Cursor, room: int) -> str:
    length, text = cursor.number(1), cursor.take(room)
    if length > room or any(text[length:]) or 0 in text[:length]:
        raise Malformed("a text that is not as long as it says")
    return text[:length].decode("ascii")


def _take_all(cursor: Cursor, count: int, take: Callable[[Cursor], Item]) -> tuple[Item, ...]:
    return tuple(take(cursor) for _ in range(count))
