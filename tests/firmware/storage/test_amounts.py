"""Every amount is real: the longest of what lies there fits, and there is no room for more that could be."""

from __future__ import annotations

import dataclasses

import pytest

from keyvisor_firmware.config import Config, Limits, StorageLimits
from keyvisor_firmware.errors import StateUnusable
from keyvisor_firmware.secrets.state_encoding import decode_state, encode_state, longest_state
from keyvisor_firmware.secrets.store import DEFAULT_MAX_REQUESTS
from keyvisor_firmware.secrets.store_state import StoredSecret, StoreState
from keyvisor_firmware.storage.amounts import Amounts, amounts
from keyvisor_firmware.storage.areas import SEAL_OVERHEAD, scatter
from keyvisor_firmware.storage.cpu_record import CpuRecord
from keyvisor_firmware.storage.page_records import PAGE_RECORD_LENGTH, record_address
from keyvisor_firmware.storage.pages import MIB, PAGE, Span
from keyvisor_firmware.storage.zone_area import GUEST_SLOT, RANGE_SLOT, guest_slot_offset, ranges_offset
from keyvisor_guest.wire.secret_ids import SecretId
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind

from .strategies import longest_guest

LIMITS = [
    (Limits(), StorageLimits()),
    (Limits(guests=1, association_secrets=1, retrievable_secrets=1), StorageLimits(max_cpus=1, ranges=64)),
    (
        Limits(guests=1024, association_secrets=3, retrievable_secrets=2),
        StorageLimits(max_cpus=4096, ranges=1 << 20),
    ),
]


def of(limits: Limits, storage: StorageLimits) -> Amounts:
    return amounts(limits, storage)


def seal(plain: bytes) -> bytes:
    return plain + bytes(SEAL_OVERHEAD)


def longest_store(association: int, retrievable: int, requests: int = DEFAULT_MAX_REQUESTS) -> StoreState:
    longest = max((row for row in KINDS.values() if row.retrievable), key=lambda row: row.lengths[-1])
    ids = SecretId(b"i" * 32)
    return StoreState(
        entries=(
            *(StoredSecret(SecretKind.ASSOCIATION, ids, b"a" * 32) for _ in range(association)),
            *(StoredSecret(longest.kind, ids, b"r" * longest.lengths[-1]) for _ in range(retrievable)),
        ),
        extension_secret=b"e" * 32,
        locked=True,
        request_tags=(b"t" * 16,) * requests,
        cck=b"c" * 32,
        wrapping_key=b"w" * 64,
    )


def test_the_defaults_are_these() -> None:
    assert of(Config().limits, Config().storage) == Amounts(
        zone_base=5 * MIB, guest_base=0x8000, guest_virtual=0x431000, guest_per_mib=0x2000, cpu=0x1000
    )


@pytest.mark.parametrize(("limits", "storage"), LIMITS)
def test_part1_T1_each_amount_is_of_whole_pages_and_the_same_however_often_it_is_asked(
    limits: Limits, storage: StorageLimits
) -> None:
    needed = of(limits, storage)
    assert needed == of(limits, storage)
    assert all(amount and amount % PAGE == 0 for amount in dataclasses.astuple(needed))
    assert needed.zone_base % MIB == 0
    assert needed.guest_base % (16 << 10) == 0


@pytest.mark.parametrize(("limits", "storage"), LIMITS)
def test_the_longest_record_of_a_guest_fits_its_base(limits: Limits, storage: StorageLimits) -> None:
    base = of(limits, storage).guest_base
    scatter(seal(longest_guest(storage.max_cpus).encode()), [Span(0, base)])
    with pytest.raises(StateUnusable):
        scatter(seal(longest_guest(storage.max_cpus).encode()), [Span(0, base - (16 << 10))])


@pytest.mark.parametrize(("limits", "storage"), LIMITS)
def test_the_longest_store_fits_the_variable_area_and_one_secret_more_does_not(
    limits: Limits, storage: StorageLimits
) -> None:
    room = of(limits, storage).secret_store
    association, retrievable = limits.association_secrets, limits.retrievable_secrets
    full = encode_state(longest_store(association, retrievable))
    assert len(full) == longest_state(association, retrievable, DEFAULT_MAX_REQUESTS)
    scatter(seal(full), [Span(0, room)])
    more = encode_state(longest_store(association, retrievable + 1))
    with pytest.raises(StateUnusable):
        scatter(seal(more), [Span(0, room)])


def test_the_longest_state_is_one_that_can_be_read() -> None:
    state = longest_store(2, 2, 3)
    assert decode_state(encode_state(state)) == state
    assert len(encode_state(state)) == longest_state(2, 2, 3)


def test_a_cpu_fits_one_page() -> None:
    cpu = CpuRecord(2**64 - 1, 0xFFFF, 2**64 - 1)
    assert scatter(seal(cpu.encode()), [Span(0, of(*LIMITS[0]).cpu)]).rest == ()


@pytest.mark.parametrize(("limits", "storage"), LIMITS)
def test_every_guest_and_every_range_has_a_slot_in_the_zone_base(
    limits: Limits, storage: StorageLimits
) -> None:
    guests_end = guest_slot_offset(limits.guests - 1) + GUEST_SLOT
    assert guest_slot_offset(0) == PAGE
    assert guests_end <= ranges_offset(limits.guests) < guests_end + PAGE
    used = ranges_offset(limits.guests) + storage.ranges * RANGE_SLOT
    assert used <= of(limits, storage).zone_base < used + MIB + PAGE


@pytest.mark.parametrize(
    "storage_length",
    [0, PAGE, MIB - PAGE, MIB, MIB + PAGE, 256 * MIB, 257 * MIB - PAGE, 1 << 40, 8 << 40],
)
def test_part1_T2_every_page_of_a_guest_has_a_record_behind_the_store(storage_length: int) -> None:
    needed = of(*LIMITS[0])
    variable = needed.variable(storage_length)
    pages = storage_length // PAGE
    last = (
        record_address(needed.secret_store, pages - 1) + PAGE_RECORD_LENGTH if pages else needed.secret_store
    )
    assert last <= variable
    assert variable - needed.guest_virtual == storage_length // MIB * 256 * PAGE_RECORD_LENGTH


def test_part1_T2_a_part_of_a_mib_is_not_charged() -> None:
    needed = of(*LIMITS[0])
    assert needed.variable(0) == needed.variable(MIB - 1) == needed.guest_virtual
    assert needed.variable(2 * MIB - 1) == needed.variable(MIB) == needed.guest_virtual + needed.guest_per_mib
