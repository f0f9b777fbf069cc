"""A guest's record has one encoding, tells nothing in passing, and takes nothing that it did not write."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.association.machine import State
from keyvisor_firmware.errors import RecordBroken
from keyvisor_firmware.guests.instance import InstanceId
from keyvisor_firmware.storage.guest_record import (
    GuestCpu,
    GuestRecord,
    HeldHsm,
    UnpackedRun,
    longest_record,
)
from keyvisor_guest.wire.secret_ids import SecretId
from keyvisor_hsm.cards import Apqn

from .strategies import IDENTITY, MEMORY_KEY, longest_guest, records

SMALL = GuestRecord(
    name="payments",
    instance=InstanceId("0f" * 16),
    cuid=b"c" * 16,
    memory_key=MEMORY_KEY,
    page_key=b"k" * 64,
    association_secrets=1,
    retrievable_secrets=2,
)
FULL = dataclasses.replace(
    SMALL,
    started="2026-11-24T18:00:00+00:00",
    identity=IDENTITY,
    host_key_hash=b"H" * 32,
    opens_after_lock=True,
    cck=b"C" * 32,
    scf=0x6000000000000000,
    page_versions=7,
    header=b"IBMSecEx",
    runs=(UnpackedRun(0x10000, 0x2000, b"tweak...", 0x1000),),
    cpus=(GuestCpu(0, 0x123, 0x80000000), GuestCpu(3, 0x456, 0x80001000)),
    held=(
        HeldHsm(Apqn(3, 0x11), State.BOUND),
        HeldHsm(Apqn(5, 0x11), State.ASSOCIATED, 2, longest_guest(0).held[0].secret_id),
    ),
)


@given(records)
def test_a_record_comes_back_from_its_bytes_and_from_no_others(record: GuestRecord) -> None:
    data = record.encode()
    assert GuestRecord.decode(data) == record
    for broken in (data[:-1], data + b"\x00", b"", b"x" + data[1:]):
        with pytest.raises(RecordBroken):
            GuestRecord.decode(broken)


@given(records, st.data())
def test_whatever_is_read_would_be_written_the_same(record: GuestRecord, data: st.DataObject) -> None:
    changed = bytearray(record.encode())
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        read = GuestRecord.decode(bytes(changed))
    except RecordBroken:
        return
    assert read.encode() == bytes(changed)


def test_the_layout_by_hand() -> None:
    data = FULL.encode()
    fields = {
        0x000: b"kv guest" + bytes.fromhex("00000001 00000007"),
        0x010: b"\x08payments" + bytes(23) + b"\x0f" * 16 + b"c" * 16,
        0x050: b"\x192026-11-24T18:00:00+00:00" + bytes(14),
        0x078: IDENTITY.encode(),
        0x148: b"H" * 32 + b"C" * 32 + bytes.fromhex("6000000000000000"),
        0x190: MEMORY_KEY + b"k" * 64,
        0x210: bytes.fromhex("0000000000000007 0001 0002 0008 0001 0002 0002 00000000"),
        0x228: b"IBMSecEx",
        0x230: bytes.fromhex("0000000000010000 0000000000002000")
        + b"tweak..."
        + bytes.fromhex("0000000000001000"),
        0x250: bytes.fromhex("0000 000000000000 0000000000000123 0000000080000000"),
        0x268: bytes.fromhex("0003 000000000000 0000000000000456 0000000080001000"),
        0x280: bytes.fromhex("0003 0011 01 00 0000") + bytes(32),
        0x2A8: bytes.fromhex("0005 0011 03 03 0002") + b"i" * 32,
    }
    for at, expected in fields.items():
        assert data[at : at + len(expected)] == expected, hex(at)
    assert len(data) == 0x2D0


def test_what_is_not_there_is_zero_and_stays_so() -> None:
    data = SMALL.encode()
    assert len(data) == 0x228
    # identity, CCK, and what is reserved
    for at in (0x078, 0x147, 0x168, 0x187, 0x224):
        with pytest.raises(RecordBroken):
            GuestRecord.decode(data[:at] + b"\x01" + data[at + 1 :])


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0x00B, 2),  # version
        (0x00F, 8),  # flag
        (0x010, 7),  # a shorter name, with a rest
        (0x010, 9),  # a longer one, with a zero in it
        (0x010, 32),
        (0x050, 40),
        (0x21C, 0x21),  # a header beyond the longest
        (0x21F, 65),  # runs
        (0x253, 1),  # reserved of a CPU
        (0x251, 4),  # CPUs out of order
        (0x281, 6),  # HSMs out of order
        (0x280, 1),  # a card that is none
        (0x284, 0),  # unbound
        (0x284, 5),  # no state
        (0x285, 4),  # flag of an HSM
        (0x285, 0),
        (0x287, 1),  # an index that the flags do not know
        (0x288, 1),  # an id that the flags do not know
    ],
)
def test_a_broken_field_is_refused(at: int, value: int) -> None:
    data = bytearray(FULL.encode())
    if (at, value) != (0x285, 0):
        data[at] = value
    else:
        data[0x2AD] = value  # index and id are there, and the flags say nothing of them
    with pytest.raises(RecordBroken):
        GuestRecord.decode(bytes(data))


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "n" * 32},
        {"name": "payments\n"},
        {"instance": "0F" * 16},
        {"instance": "0f" * 15},
        {"cuid": b"c" * 15},
        {"memory_key": b"m" * 64},
        {"memory_key": b"m" * 32},
        {"page_key": b"k" * 63},
        {"started": "2" * 40},
        {"started": "tomorrow\x00"},
        {"cck": b""},
        {"header": b""},
        {"header": b"h" * 8193},
        {"host_key_hash": b""},
        {"runs": longest_guest(0).runs * 2},
        {"cpus": longest_guest(2).cpus[::-1]},
        {"cpus": longest_guest(1).cpus * 2},
        {"cpus": (*longest_guest(4096).cpus, GuestCpu(4096, 1, 1))},
        {"held": longest_guest(0).held[:2][::-1]},
        {"held": (*longest_guest(0).held, HeldHsm(Apqn(1, 0), State.BOUND))},
    ],
)
def test_what_no_guest_is_has_no_record(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no guest's record"):
        dataclasses.replace(FULL, **change)  # type: ignore[arg-type]


def test_no_part_of_a_record_is_like_this() -> None:
    with pytest.raises(ValueError, match="no HSM"):
        HeldHsm(Apqn(3, 3), State.UNBOUND)
    with pytest.raises(ValueError, match="no HSM"):
        HeldHsm(Apqn(3, 3), State.ASSOCIATED, 0, SecretId(b"i" * 31))
    with pytest.raises(ValueError, match="tweak"):
        UnpackedRun(0, 4096, b"t" * 7, 0)


def test_no_key_is_in_the_text_of_a_record_or_of_an_error() -> None:
    shown = repr(FULL)
    for secret in (MEMORY_KEY, b"k" * 32, b"C" * 32, b"IBMSecEx"):
        assert repr(secret)[2:-1] not in shown
    broken = SMALL.encode()[:0x190] + b"m" * 64 + SMALL.encode()[0x1D0:]
    with pytest.raises(RecordBroken) as refused:
        GuestRecord.decode(broken)
    assert "mmm" not in str(refused.value)


@pytest.mark.parametrize("cpu_count", [0, 1, 248, 4096])
def test_the_longest_record_is_as_long_as_it_says(cpu_count: int) -> None:
    record = longest_guest(cpu_count)
    assert len(record.encode()) == longest_record(cpu_count)
    assert GuestRecord.decode(record.encode()) == record
