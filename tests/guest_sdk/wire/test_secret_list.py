"""The list's pages, encoder and decoder, and what the device makes of several pages."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.wire.errors import Malformed, Unbuildable
from keyvisor_guest.wire.secret_ids import SecretId
from keyvisor_guest.wire.secret_list import (
    EXECUTED,
    MORE_DATA,
    ListEntry,
    Page,
    decode_list,
    encode_list,
    encode_page,
    read_pages,
)

entries = st.builds(
    ListEntry,
    index=st.integers(0, 0xFFFF),
    kind=st.integers(0, 0xFFFF),
    length=st.integers(0, 0xFFFFFFFF),
    id=st.binary(min_size=32, max_size=32).map(SecretId),
)


def some(count: int) -> list[ListEntry]:
    return [ListEntry(index, 2, 32, SecretId(index.to_bytes(32, "big"))) for index in range(count)]


def test_the_layout_is_the_formats():
    """Formats, C.3, byte for byte."""
    page = encode_page([ListEntry(0, 0x11, 64, SecretId(b"\xab" * 32))], 0)
    assert page.rc == 0x0001
    assert page.data == (
        bytes.fromhex("000100010000" + "00" * 10 + "0000001100000040" + "00" * 8 + "ab" * 32)
        + bytes(4096 - 64)
    )


@pytest.mark.parametrize(
    ("count", "start", "shown", "following", "rc"),
    [
        (0, 0, 0, 0, EXECUTED),
        (1, 0, 1, 0, EXECUTED),
        (85, 0, 85, 0, EXECUTED),
        (86, 0, 85, 85, MORE_DATA),
        (86, 85, 1, 0, EXECUTED),
        (200, 3, 85, 88, MORE_DATA),
        (200, 115, 85, 0, EXECUTED),
        (200, 200, 0, 0, EXECUTED),
        (3, 0xFFFF, 0, 0, EXECUTED),
    ],
)
def test_a_page_has_85_entries_from_the_start_index_on(count, start, shown, following, rc):
    page = encode_page(some(count), start)
    found = decode_list(page.data)
    assert (page.rc, len(page.data)) == (rc, 4096)
    assert (len(found.entries), found.total, found.next) == (shown, count, following)
    assert found.entries == tuple(some(count)[start : start + 85])


@pytest.mark.parametrize(
    ("pages", "count", "shown", "calls"),
    [
        (1, 0, 0, [0]),
        (1, 85, 85, [0]),
        (1, 340, 85, [0]),
        (2, 340, 170, [0, 85]),
        (4, 340, 340, [0, 85, 170, 255]),
        (4, 341, 340, [0, 85, 170, 255]),
        (4, 86, 86, [0, 85]),
        (5, 400, 400, [0, 85, 170, 255, 340]),
    ],
)
def test_several_pages_have_one_header_and_up_to_340_entries_in_four(pages, count, shown, calls):
    asked = []

    def call(start: int) -> Page:
        asked.append(start)
        return encode_page(some(count), start)

    data = read_pages(call, pages * 4096)
    found = decode_list(data)
    assert len(data) == pages * 4096
    assert asked == calls
    assert (len(found.entries), found.total) == (shown, count)
    assert found.entries == tuple(some(count)[:shown])
    assert found.next == (shown if shown < count else 0)


@pytest.mark.parametrize("following", [0, 3, 5])
def test_a_list_that_does_not_advance_ends(following):
    """From index 5 on: the same again, or one before."""

    def call(start: int) -> Page:
        data = bytearray(encode_page(some(200), start).data)
        data[4:6] = (5 if start == 0 else following).to_bytes(2, "big")
        return Page(MORE_DATA, bytes(data))

    with pytest.raises(Malformed, match="goes on at index"):
        read_pages(call, 4 * 4096)


@pytest.mark.parametrize("room", [0, 1, 4095, 4097, -4096 + 1])
def test_the_device_takes_whole_pages(room):
    with pytest.raises(ValueError, match="whole pages"):
        read_pages(lambda start: encode_page([], start), room)


@settings(deadline=None)
@given(listed=st.lists(entries, max_size=100))
def test_a_list_comes_back(listed):
    data = encode_list(listed)
    assert len(data) == 16 + 48 * len(listed)
    found = decode_list(data)
    assert (found.entries, found.total, found.next) == (tuple(listed), len(listed), 0)


@settings(deadline=None)
@given(data=st.binary(max_size=200))
def test_part3_T14_any_bytes_are_a_list_or_refused(data):
    try:
        found = decode_list(data)
    except Malformed:
        return
    again = encode_list(found.entries)
    assert data[6 : len(again)] == again[6:]
    assert not any(data[len(again) :])


@pytest.mark.parametrize(
    ("offset", "value"), [(0, b"\x00\x03"), (2, b"\x00\x01"), (6, b"\x01"), (0x18, b"\x01"), (112, b"\x01")]
)
def test_a_list_that_cannot_be_is_refused(offset, value):
    """Two entries, and what follows them."""
    data = encode_list(some(2)) + bytes(16)
    with pytest.raises(Malformed):
        decode_list(data[:offset] + value + data[offset + len(value) :])
    for length in range(16 + 2 * 48):
        with pytest.raises(Malformed):
            decode_list(data[:length])


def test_more_than_a_list_can_tell_of_is_not_built():
    many = some(1) * 0x10000
    for build in (lambda: encode_page(many, 0), lambda: encode_list(many)):
        with pytest.raises(Unbuildable, match="65535"):
            build()
