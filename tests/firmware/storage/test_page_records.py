"""Records of pages and CPUs: one encoding each, and nothing else is taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.errors import RecordBroken
from keyvisor_firmware.storage.cpu_record import CPU_RECORD_LENGTH, CpuRecord
from keyvisor_firmware.storage.page_records import PageRecord, PageState, record_address

TAG = b"t" * 16
EXPORTED = PageRecord(PageState.EXPORTED, 0x0102, TAG)


@pytest.mark.parametrize(
    ("record", "data"),
    [
        (PageRecord(), bytes(32)),
        (PageRecord(PageState.SECURE), b"\x01" + bytes(31)),
        (PageRecord(PageState.SECURE, 5), b"\x01" + bytes(14) + b"\x05" + bytes(16)),
        (EXPORTED, b"\x02" + bytes(13) + b"\x01\x02" + TAG),
    ],
)
def test_the_record_of_a_page_by_hand(record: PageRecord, data: bytes) -> None:
    assert record.encode() == data
    assert PageRecord.decode(data) == record


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(31),
        bytes(33),
        b"\x03" + bytes(31),
        b"\x01\x01" + bytes(30),
        bytes(15) + b"\x01" + bytes(16),  # a version, and it never was here
        bytes(31) + b"\x01",  # a tag, and it is not away
        b"\x01" + bytes(30) + b"\x01",
        b"\x02" + bytes(31),  # away without a version
    ],
)
def test_what_is_no_record_of_a_page(data: bytes) -> None:
    with pytest.raises(RecordBroken):
        PageRecord.decode(data)


@given(
    st.binary(min_size=32, max_size=32)
    | st.binary(min_size=24, max_size=24).map(lambda b: b"\x02" + bytes(7) + b)
)
def test_a_page_has_one_encoding(data: bytes) -> None:
    try:
        record = PageRecord.decode(data)
    except RecordBroken:
        return
    assert record.encode() == data


@pytest.mark.parametrize(
    "wrong",
    [
        (PageState.NEVER, 1, bytes(16)),
        (PageState.SECURE, 1, TAG),
        (PageState.EXPORTED, 0, TAG),
        (PageState.EXPORTED, 1, TAG[1:]),
    ],
)
def test_no_page_has_a_record_like_this(wrong: tuple[PageState, int, bytes]) -> None:
    with pytest.raises(ValueError, match="no page"):
        PageRecord(*wrong)


def test_records_stand_one_behind_the_other_and_across_no_two_pages() -> None:
    assert [record_address(0x5000, page) for page in (0, 1, 127, 128)] == [0x5000, 0x5020, 0x5FE0, 0x6000]
    assert record_address(0, 1 << 31) == 1 << 36


def test_the_record_of_a_cpu_by_hand() -> None:
    record = CpuRecord(guest=0x0000A1B2C3D4E5F6, number=0x00F7, handle=0x0102)
    data = b"kv   cpu" + bytes.fromhex("00000001 0000 00f7 0000a1b2c3d4e5f6 0000000000000102")
    assert record.encode() == data
    assert len(data) == CPU_RECORD_LENGTH
    assert CpuRecord.decode(data) == record
    for broken in (b"", data[:-1], data + b"\x00", b"K" + data[1:], data[:11] + b"\x02" + data[12:]):
        with pytest.raises(RecordBroken):
            CpuRecord.decode(broken)
