"""Room for bytes (pkcs11-rpc, 4.4), and what a call makes or leaves when it is refused."""

from __future__ import annotations

import ctypes
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.broker.codec import Needed
from keyvisor_firmware.broker.forward import Output, asks_for_token_object
from keyvisor_firmware.broker.limits import DEFAULTS
from keyvisor_hsm.cryptoki import CKA, CKR
from keyvisor_hsm.cryptoki.native import Attribute

ALL_ONES = 0xFFFFFFFF


def module_says(output: Output, data: bytes) -> CKR:
    """What every module does with a buffer and its length."""
    address, length_address = output.arguments
    length = ctypes.c_ulong.from_address(length_address)
    given_room, length.value = length.value, len(data)
    if not address:
        return CKR.OK
    if given_room < len(data):
        return CKR.BUFFER_TOO_SMALL
    ctypes.memmove(address, data, len(data))
    return CKR.OK


@given(st.integers(0, 40), st.binary(max_size=32))
def test_bytes_come_where_they_fit_and_the_size_where_not(room: int, data: bytes) -> None:
    output = Output(room, DEFAULTS.output)
    left = output.reply(module_says(output, data))
    assert left == (data if room and len(data) <= room else Needed(len(data)))


def test_no_room_is_a_size_query_with_a_null_pointer() -> None:
    """It must not end the operation, so the module has to see the NULL."""
    output = Output(0, DEFAULTS.output)
    assert output.arguments[0] == 0
    assert output.reply(module_says(output, bytes(32))) == Needed(32)


def test_all_ones_are_a_pointer_with_no_room() -> None:
    output = Output(ALL_ONES, DEFAULTS.output)
    assert output.arguments[0]
    assert ctypes.c_ulong.from_address(output.arguments[1]).value == 0
    assert output.reply(module_says(output, bytes(32))) == Needed(32)
    empty = Output(ALL_ONES, DEFAULTS.output)
    assert empty.reply(module_says(empty, b"")) == b""


def test_room_is_bounded_whatever_is_asked_for() -> None:
    output = Output(ALL_ONES - 1, DEFAULTS.output)
    assert ctypes.c_ulong.from_address(output.arguments[1]).value == DEFAULTS.output


@pytest.mark.parametrize("rv", [CKR.DEVICE_ERROR, CKR.OPERATION_NOT_INITIALIZED, CKR.DATA_LEN_RANGE])
@pytest.mark.parametrize("room", [0, 8, ALL_ONES])
def test_an_error_leaves_nothing(rv: CKR, room: int) -> None:
    output = Output(room, DEFAULTS.output)
    module_says(output, b"what is left of something")
    assert output.reply(rv) is None


def test_a_module_that_tells_more_than_it_was_given_room_for_is_not_believed() -> None:
    output = Output(8, DEFAULTS.output)
    ctypes.c_ulong.from_address(output.arguments[1]).value = 1 << 40
    assert output.reply(CKR.OK) == bytes(8)


@pytest.mark.parametrize(
    ("template", "asks"),
    [
        ((), False),
        ((Attribute(CKA.TOKEN, b"\0"),), False),
        ((Attribute(CKA.TOKEN, None),), False),
        ((Attribute(CKA.TOKEN, b"\1"),), True),
        ((Attribute(CKA.TOKEN, b"\2"),), True),
        ((Attribute(CKA.TOKEN, b"\0"), Attribute(CKA.TOKEN, b"\1")), True),
        ((Attribute(CKA.PRIVATE, b"\1"), Attribute(CKA.VALUE_LEN, struct.pack("=Q", 1))), False),
    ],
)
def test_a_token_object_is_recognised(template: tuple[Attribute, ...], asks: bool) -> None:
    assert asks_for_token_object(template) is asks
