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
    1d0  32    page key: AES-256-GCM, for pages that leave the guest
    1f0  8     how many versions of exported pages were given out
    1f8  2     association secrets that its variable area has room for
    1fa  2     retrievable secrets, likewise
    1fc  2     length of the image header; 0 where none is kept
    1fe  2     number of unpacked runs
    200  2     number of CPUs
    202  2     number of HSMs that it holds
    204  4     zero
    208        the image header
    ..   32·n  unpacked runs, in their order: u64 address, u64 length, tweak prefix (8), u64 offset
    ..   24·n  CPUs, by number: u16 number, 6 zeros, u64 handle, u64 absolute origin
    ..   40·n  HSMs, by APQN: u16 card, u16 domain, u8 state, u8 flags (1 secret index, 2 secret id), u16 index, id (32)

A record has one encoding: `decode` refuses everything that `encode` would not have written. Knows no page, no seal and
no image key: that is in the header, for whoever has a host key.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self, TypeVar

from keyvisor_firmware.association.machine import State
from keyvisor_firmware.broker.state_page import MAX_HSMS
from keyvisor_firmware.config import MAX_CPUS
from keyvisor_firmware.errors import RecordBroken
from keyvisor_firmware.guests.instance import InstanceId
from keyvisor_firmware.storage.paging import MEMORY_KEY_LENGTH, PAGE_KEY_LENGTH
from keyvisor_guest.wire.boot_identity import DIGEST_LENGTH, HEADER_TAG_LENGTH, BootIdentity
from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.names import GUEST_NAME
from keyvisor_guest.wire.se_header import MAX_HEADER
from keyvisor_guest.wire.se_pages import TWEAK_PREFIX_LENGTH
from keyvisor_guest.wire.secret_ids import CCK_LENGTH, ID_LENGTH, SecretId
from keyvisor_hsm.cards import Apqn

MAX_RUNS: Final = 64
MAX_HELD: Final = MAX_HSMS
CUID_LENGTH: Final = 16
INSTANCE_LENGTH: Final = 16
HASH_LENGTH: Final = 32

_MAGIC: Final = b"kv guest"
_VERSION: Final = 1
_HEAD: Final = 0x208
_NAME: Final = 31
_STARTED: Final = 39
_IDENTITY: Final = 3 * DIGEST_LENGTH + HEADER_TAG_LENGTH
_RUN: Final = 32
_CPU: Final = 24
_HELD: Final = 40

_OPENS_AFTER_LOCK: Final = 1
_IDENTITY_KNOWN: Final = 2
_CCK_KNOWN: Final = 4
_INDEX_GIVEN: Final = 1
_ID_GIVEN: Final = 2

_STATES: Final = (
    State.BOUND,
    State.PENDING,
    State.ASSOCIATED,
    State.FAILED,
)  # u8 1, 2, ...; an unbound HSM is not held

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class UnpackedRun:
    """Pages that were unpacked as one: `address` is the guest's, `length` in bytes, `tweak` the component's 8-byte prefix.

    `offset` (bytes) is the tweak's counter at the first page.
    """

    address: int
    length: int
    tweak: bytes
    offset: int


@dataclass(frozen=True, slots=True)
class GuestCpu:
    """One of the guest's CPUs. `origin` is where its donated storage begins, host-absolute."""

    number: int
    handle: int
    origin: int


@dataclass(frozen=True, slots=True)
class HeldHsm:
    """What an HSM is to the guest that holds it. Index and id of the secret are given where it is associated."""

    apqn: Apqn
    state: State
    secret_index: int | None = None
    secret_id: SecretId | None = None


@dataclass(frozen=True, slots=True)
class GuestRecord:
    """All that is kept in a guest's base area.

    `identity`, `host_key_hash`, `cck` and `scf` come from the image's header; `header` is kept while the guest boots, as
    are the `runs` (in the order of unpacking) until they are measured. `started` is empty before the start. The halves
    of `memory_key` differ: XTS demands it. `association_secrets` and `retrievable_secrets` are what the donation has
    room for. `page_versions` counts the exported pages: no version is given out twice, whichever the page.
    `cpus` are in the order of their numbers, `held` in that of their APQNs. Raises ValueError for what no guest is.
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
                *map(_encode_run, self.runs),
                *map(_encode_cpu, self.cpus),
                *map(_encode_held, self.held),
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
        name, instance, cuid = (
            _take_text(cursor, _NAME),
            cursor.take(INSTANCE_LENGTH),
            cursor.take(CUID_LENGTH),
        )
        started = _take_text(cursor, _STARTED)
        identity = _take_optional(cursor, _IDENTITY, flags & _IDENTITY_KNOWN)
        host_key_hash = cursor.take(HASH_LENGTH)
        cck, scf = _take_optional(cursor, CCK_LENGTH, flags & _CCK_KNOWN), cursor.number(8)
        memory_key, page_key = cursor.take(MEMORY_KEY_LENGTH), cursor.take(PAGE_KEY_LENGTH)
        page_versions, association, retrievable = cursor.number(8), cursor.number(2), cursor.number(2)
        header_length, runs, cpus, held = (cursor.number(2) for _ in range(4))
        cursor.reserved(4)
        if (
            header_length > MAX_HEADER
            or runs > MAX_RUNS
            or cpus > MAX_CPUS
            or held > MAX_HELD
            or cursor.used_reserved
        ):
            raise Malformed("a count is too large, or a reserved field used")
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
            runs=_take_all(cursor, runs, _take_run),
            cpus=_take_all(cursor, cpus, _take_cpu),
            held=_take_all(cursor, held, _take_held),
        )
        cursor.end()
        return record


def longest_record(cpus: int) -> int:
    """Bytes of the longest record of a guest with `cpus` CPUs: its header, runs and HSMs as many as there can be."""
    return _HEAD + MAX_HEADER + MAX_RUNS * _RUN + cpus * _CPU + MAX_HELD * _HELD


def _rules(record: GuestRecord) -> Iterable[tuple[str, bool]]:
    keys = record.memory_key
    half = MEMORY_KEY_LENGTH // 2
    yield "name", re.fullmatch(GUEST_NAME, record.name) is not None
    yield "instance", re.fullmatch(rf"[0-9a-f]{{{2 * INSTANCE_LENGTH}}}", record.instance) is not None
    yield "cuid", len(record.cuid) == CUID_LENGTH
    yield "memory_key", len(keys) == MEMORY_KEY_LENGTH and keys[:half] != keys[half:]
    yield "page_key", len(record.page_key) == PAGE_KEY_LENGTH
    yield "started", len(record.started) <= _STARTED and _is_printable(record.started)
    yield "host_key_hash", len(record.host_key_hash) == HASH_LENGTH
    yield "cck", record.cck is None or len(record.cck) == CCK_LENGTH
    yield "header", record.header is None or 0 < len(record.header) <= MAX_HEADER
    yield (
        "runs",
        len(record.runs) <= MAX_RUNS and all(len(run.tweak) == TWEAK_PREFIX_LENGTH for run in record.runs),
    )
    yield "cpus", len(record.cpus) <= MAX_CPUS and _ascending([(cpu.number,) for cpu in record.cpus])
    apqns = [(held.apqn.card, held.apqn.domain) for held in record.held]
    yield "held", len(record.held) <= MAX_HELD and _ascending(apqns)
    yield "state of an HSM", all(held.state in _STATES for held in record.held)
    yield (
        "id of a secret",
        all(held.secret_id is None or len(held.secret_id) == ID_LENGTH for held in record.held),
    )


def _is_printable(text: str) -> bool:
    return text.isascii() and (text.isprintable() or not text)


def _ascending(values: Sequence[tuple[int, ...]]) -> bool:
    return all(one < next_one for one, next_one in itertools.pairwise(values))


def _encode_text(text: str, room: int) -> bytes:
    return len(text).to_bytes(1, "big") + text.encode("ascii").ljust(room, b"\x00")


def _take_text(cursor: Cursor, room: int) -> str:
    length, text = cursor.number(1), cursor.take(room)
    if length > room or any(text[length:]) or 0 in text[:length]:
        raise Malformed("a text that is not as long as it says")
    return text[:length].decode("ascii")


def _take_optional(cursor: Cursor, length: int, there: int) -> bytes | None:
    value = cursor.take(length)
    if not there and any(value):
        raise Malformed("a value that the flags say is not there")
    return value if there else None


def _take_all(cursor: Cursor, count: int, take: Callable[[Cursor], Item]) -> tuple[Item, ...]:
    return tuple(take(cursor) for _ in range(count))


def _encode_run(run: UnpackedRun) -> bytes:
    return (
        run.address.to_bytes(8, "big")
        + run.length.to_bytes(8, "big")
        + run.tweak
        + run.offset.to_bytes(8, "big")
    )


def _take_run(cursor: Cursor) -> UnpackedRun:
    return UnpackedRun(cursor.number(8), cursor.number(8), cursor.take(TWEAK_PREFIX_LENGTH), cursor.number(8))


def _encode_cpu(cpu: GuestCpu) -> bytes:
    return (
        cpu.number.to_bytes(2, "big")
        + bytes(6)
        + cpu.handle.to_bytes(8, "big")
        + cpu.origin.to_bytes(8, "big")
    )


def _take_cpu(cursor: Cursor) -> GuestCpu:
    number, reserved = cursor.number(2), cursor.take(6)
    if any(reserved):
        raise Malformed("a CPU with a reserved field")
    return GuestCpu(number, cursor.number(8), cursor.number(8))


def _encode_held(held: HeldHsm) -> bytes:
    flags = _INDEX_GIVEN * (held.secret_index is not None) | _ID_GIVEN * (held.secret_id is not None)
    return b"".join(
        (
            held.apqn.card.to_bytes(2, "big"),
            held.apqn.domain.to_bytes(2, "big"),
            (1 + _STATES.index(held.state)).to_bytes(1, "big"),
            flags.to_bytes(1, "big"),
            (held.secret_index or 0).to_bytes(2, "big"),
            held.secret_id or bytes(ID_LENGTH),
        )
    )


def _take_held(cursor: Cursor) -> HeldHsm:
    card, domain, state, flags = cursor.number(2), cursor.number(2), cursor.number(1), cursor.number(1)
    if not 1 <= state <= len(_STATES) or flags & ~(_INDEX_GIVEN | _ID_GIVEN):
        raise Malformed("an HSM in no state, or with an unknown flag")
    index = _take_optional(cursor, 2, flags & _INDEX_GIVEN)
    secret_id = _take_optional(cursor, ID_LENGTH, flags & _ID_GIVEN)
    return HeldHsm(
        Apqn(card, domain),
        _STATES[state - 1],
        None if index is None else int.from_bytes(index, "big"),
        None if secret_id is None else SecretId(secret_id),
    )
