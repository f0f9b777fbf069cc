"""The query block, written out by hand once, and every length that a caller may have room for."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.wire.errors import Malformed, QueryTooShort, Truncated
from keyvisor_guest.wire.qui import (
    CALL_BITS,
    MIN_QUERY,
    QUERY_LENGTH,
    StorageQuery,
    UvCommand,
    decode_query,
    encode_query,
)

QUERY = StorageQuery(
    zone_base=0x0000000001000000,
    guest_base=0x8000,
    guest_base_virtual=0x432000,
    guest_per_mib=0x2000,
    cpu=0x1000,
    max_guests=64,
    max_address=0x0000010000000000,
    max_cpu_id=247,
    features=0x4C00000000000000,
    calls=frozenset(UvCommand),
    header_versions=0x8000000000000000,
    control_flags=0x00E0000000000000,
    dump_storage_state=0x11,
    dump_finalize=0x22,
    attestation_versions=0x8000000000000001,
    attestation_flags=0x7800000000000000,
    add_secret_versions=0x8000000000000002,
    add_secret_flags=0x8000000000000003,
    secret_types=0x7FE07E0000000000,
    max_association_secrets=512,
    max_retrievable_secrets=513,
)

BLOCK = bytes.fromhex(
    # 000: length, command, rc, rrc; reserved
    "0120 0001 0001 0000  0000000000000000"
    # 010: installed calls: 0-7, 11, 13, 14, 17, 28-31, 33, 34
    "ff16400f60000000 0000000000000000 0000000000000000 0000000000000000"
    # 030: reserved
    "0000000000000000 0000000000000000"
    # 040: zone base; reserved
    "0000000001000000 0000000000000000"
    # 050: guest base, absolute and virtual
    "0000000000008000 0000000000432000"
    # 060: per MiB; CPU
    "0000000000002000 0000000000001000"
    # 070: reserved; guests
    "00000000 00000000 00000000 00000040"
    # 080: highest address; reserved up to the CPU id
    "0000010000000000 0000000000000000"
    "0000000000000000 000000000000 00f7"
    # 0a0: features; reserved
    "4c00000000000000 0000000000000000"
    # 0b0: header versions, control flags
    "8000000000000000 00e0000000000000"
    # 0c0: reserved; dump
    "0000000000000000 0000000000000011"
    "0000000000000022 0000000000000000"
    # 0e0: attestation
    "8000000000000001 7800000000000000"
    # 0f0: reserved; add-secret
    "0000000000000000 8000000000000002"
    "8000000000000003 7fe07e0000000000"
    # 110: most secrets; reserved
    "0200 0201 00000000 0000000000000000"
)


def test_the_block_is_as_it_was_written_out() -> None:
    assert len(BLOCK) == QUERY_LENGTH
    assert encode_query(QUERY, 0x120) == (0x0001, BLOCK)
    assert decode_query(BLOCK) == QUERY


def test_every_room_has_its_answer() -> None:
    for room in range(0x130):
        if room < 0xA8:
            with pytest.raises(QueryTooShort) as refused:
                encode_query(QUERY, room)
            assert refused.value.rc == 0x0005
            continue
        rc, block = encode_query(QUERY, room)
        assert rc == (0x0100 if room < 0x120 else 0x0001)
        assert block[:8] == room.to_bytes(2, "big") + b"\x00\x01" + rc.to_bytes(2, "big") + b"\x00\x00"
        assert block[8:] == BLOCK[8:room]


def test_more_room_than_the_length_field_can_tell_is_not_told() -> None:
    assert encode_query(QUERY, 1 << 16) == (0x0001, b"\xff\xff" + BLOCK[2:])


def test_a_cut_block_tells_what_it_holds_whole_and_nothing_else() -> None:
    ends = {
        "features": 0xA8,
        "header_versions": 0xB8,
        "secret_types": 0x110,
        "max_retrievable_secrets": 0x114,
    }
    for room in range(MIN_QUERY, QUERY_LENGTH):
        read = decode_query(encode_query(QUERY, room)[1])
        for name, end in ends.items():
            assert getattr(read, name) == (getattr(QUERY, name) if room >= end else 0)
        assert (read.zone_base, read.max_cpu_id, read.calls) == (
            QUERY.zone_base,
            QUERY.max_cpu_id,
            QUERY.calls,
        )


@pytest.mark.parametrize(
    "block",
    [
        BLOCK[:2] + b"\x00\x02" + BLOCK[4:],
        BLOCK[:4] + b"\x00\x05" + BLOCK[6:],
        b"\x00\xa7" + BLOCK[2:],
    ],
)
def test_the_head_of_something_else_is_refused(block: bytes) -> None:
    with pytest.raises(Malformed):
        decode_query(block)


@pytest.mark.parametrize("length", [0, 7, 0xA7])
def test_less_than_the_least_block_is_refused(length: int) -> None:
    with pytest.raises(Truncated):
        decode_query(BLOCK[:length])


def test_calls_of_another_firmware_are_passed_over() -> None:
    everything = BLOCK[:0x10] + b"\xff" * 32 + BLOCK[0x30:]
    assert decode_query(everything).calls == frozenset(UvCommand)


def test_every_command_has_a_bit_of_its_own() -> None:
    assert set(CALL_BITS) == set(UvCommand)
    assert len(set(CALL_BITS.values())) == len(UvCommand)


u64 = st.integers(0, 2**64 - 1)


@given(st.data())
def test_what_is_encoded_is_read_back(data: st.DataObject) -> None:
    widths = {
        "max_guests": 32,
        "max_cpu_id": 16,
        "max_association_secrets": 16,
        "max_retrievable_secrets": 16,
    }
    numbers = {
        field.name: data.draw(st.integers(0, 2 ** widths.get(field.name, 64) - 1))
        for field in dataclasses.fields(StorageQuery)
        if field.name != "calls"
    }
    query = StorageQuery(**numbers, calls=data.draw(st.frozensets(st.sampled_from(UvCommand))))
    room = data.draw(st.integers(QUERY_LENGTH, 0xFFFF))
    assert decode_query(encode_query(query, room)[1]) == query


MIB = 1 << 20


@pytest.mark.parametrize(
    ("storage", "charged"),
    [(0, 0), (4096, 0), (MIB - 1, 0), (MIB, 1), (2 * MIB - 4096, 1), (1 << 40, 1 << 20), (1 << 52, 1 << 32)],
)
def test_part1_T2_the_variable_area_grows_with_the_whole_mib(storage: int, charged: int) -> None:
    assert QUERY.guest_virtual(storage) == QUERY.guest_base_virtual + charged * QUERY.guest_per_mib


def test_part1_T2_the_product_is_rounded_up_to_pages() -> None:
    query = dataclasses.replace(QUERY, guest_base_virtual=0x1000, guest_per_mib=100)
    assert query.guest_virtual(MIB) == 0x2000
    assert query.guest_virtual(40 * MIB) == 0x2000
    assert query.guest_virtual(41 * MIB) == 0x3000
