"""Frames, and the cursor that all parsing goes through."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.broker.cursor import Cursor
from keyvisor_firmware.broker.errors import ProtocolError
from keyvisor_firmware.broker.framing import Head, frame, negotiate, parse_head
from keyvisor_firmware.broker.limits import DEFAULTS


@given(st.integers(1, 2**32 - 1), st.integers(0, DEFAULTS.frame_options), st.integers(0, DEFAULTS.frame_body))
def test_a_head_is_three_numbers(code: int, options: int, body: int) -> None:
    assert parse_head(struct.pack(">III", code, options, body)) == Head(code, options, body)


@pytest.mark.parametrize(
    ("code", "options", "body", "said"),
    [
        (0, 0, 8, "the code 0"),
        (1, DEFAULTS.frame_options + 1, 0, "4097 bytes of options"),
        (1, 2**32 - 1, 0, "bytes of options"),
        (1, 0, DEFAULTS.frame_body + 1, "33554433 bytes"),
        (1, 0, 2**32 - 1, "4294967295 bytes"),
    ],
)
def test_a_head_out_of_bounds_is_refused_before_anything_is_read(
    code: int, options: int, body: int, said: str
) -> None:
    with pytest.raises(ProtocolError, match=said):
        parse_head(struct.pack(">III", code, options, body))


@given(st.integers(1, 2**32 - 1), st.binary(max_size=100))
def test_a_reply_has_no_options(code: int, body: bytes) -> None:
    assert frame(code, body) == struct.pack(">III", code, 0, len(body)) + body


def test_rule_1_the_lower_version_is_spoken() -> None:
    """Never close on a byte that we do not like: the client would come back indistinguishable (section 1)."""
    assert [negotiate(theirs) for theirs in range(256)] == [0, 1] + [2] * 254


# --- the cursor


@given(st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=20))
def test_a_cursor_reads_big_endian(one: int, four: int, eight: int, data: bytes) -> None:
    cursor = Cursor(b"skip" + struct.pack(">BIQI", one, four, eight, len(data)) + data, 4)
    assert (cursor.u8(), cursor.u32(), cursor.u64(), cursor.sized_bytes()) == (one, four, eight, data)
    cursor.end()


@pytest.mark.parametrize(
    ("method", "data"),
    [
        (Cursor.u8, b""),
        (Cursor.u32, bytes(3)),
        (Cursor.u64, bytes(7)),
        (Cursor.sized_bytes, struct.pack(">I", 5) + b"four"),
        (Cursor.sized_bytes, struct.pack(">I", 0xFFFFFFFE)),
        (lambda cursor: cursor.ulongs(8), struct.pack(">I", 2) + bytes(15)),
        (Cursor.attribute_count, bytes(3)),
    ],
)
def test_a_short_read_is_always_the_same_error(method: object, data: bytes) -> None:
    assert callable(method)
    with pytest.raises(ProtocolError, match="bytes are announced and"):
        method(Cursor(data))


def test_a_length_of_all_ones_is_no_value() -> None:
    cursor = Cursor(b"\xff\xff\xff\xff")
    assert cursor.sized_bytes() is None
    cursor.end()


def test_too_many_numbers_are_refused_before_they_are_looked_for() -> None:
    with pytest.raises(ProtocolError, match="9 numbers, 8 at most"):
        Cursor(struct.pack(">I", 9)).ulongs(8)
    assert Cursor(struct.pack(">IQ", 1, 7)).ulongs(8) == (7,)


def test_attributes_are_counted_over_the_whole_call() -> None:
    cursor = Cursor(struct.pack(">III", DEFAULTS.attributes - 1, 1, 1))
    assert (cursor.attribute_count(), cursor.attribute_count()) == (DEFAULTS.attributes - 1, 1)
    with pytest.raises(ProtocolError, match=f"more than {DEFAULTS.attributes} attributes"):
        cursor.attribute_count()


def test_what_is_left_over_is_an_error() -> None:
    cursor = Cursor(b"ab")
    cursor.u8()
    assert cursor.left == 1
    with pytest.raises(ProtocolError, match="1 bytes are left"):
        cursor.end()
