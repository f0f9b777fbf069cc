"""The calls table as the hot loop reads it: the layout is C's, and only calls of the shapes that C knows have one."""

from __future__ import annotations

import struct
from typing import Any, Final

import pytest

from keyvisor_firmware.broker.calls import BY_NAME, CALLS, Call, Role
from keyvisor_firmware.broker.codec import elements, pack_reply
from keyvisor_firmware.broker.forward import forward
from keyvisor_firmware.broker.hot.tables import MEMO_CALLS, ROW_SIZE, ROWS, TABLE, Shape, shape_of
from keyvisor_firmware.broker.operations import BEGINS, ENDS
from keyvisor_firmware.broker.slow_calls import WITH_PRIVATE_KEY
from keyvisor_hsm.cryptoki import FUNCTIONS

from ..encoder import PROTOCOL, body, sized, u32
from ..sample_calls import arguments

# What C assumes of a shape: how the arguments travel, and how many the module's function has.
_IN_OUT: Final = "Encrypt EncryptUpdate Decrypt DecryptUpdate Digest Sign"
SHAPES: Final[dict[Shape, tuple[str, tuple[Role, ...], str, int, str]]] = {
    Shape.IN_OUT: ("uayfy", (Role.SESSION, Role.DATA, Role.ROOM), "ay", 5, _IN_OUT),
    Shape.OUT: ("ufy", (Role.SESSION, Role.ROOM), "ay", 3, "EncryptFinal DecryptFinal DigestFinal SignFinal"),
    Shape.IN: ("uay", (Role.SESSION, Role.DATA), "", 3, "DigestUpdate SignUpdate VerifyUpdate VerifyFinal"),
    Shape.IN_IN: ("uayay", (Role.SESSION, Role.DATA, Role.DATA), "", 5, "Verify"),
    Shape.RANDOM: ("ufy", (Role.SESSION, Role.ROOM), "ay", 3, "GenerateRandom"),
}
MEMOS: Final = "GetSessionInfo GetAttributeValue EncryptInit DecryptInit DigestInit SignInit VerifyInit"


def row(call: Call) -> tuple[Any, ...]:
    return struct.unpack_from("=6Q24s24s", TABLE.tobytes(), ROW_SIZE * call.id)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_shape_is_that_of_the_calls_named_here_and_of_no_other(shape: Shape) -> None:
    request, roles, reply, arity, names = SHAPES[shape]
    calls = [call for call in CALLS if shape_of(call) is shape]
    assert {call.name for call in calls} == {f"C_{name}" for name in names.split()}
    for call in calls:
        assert (call.request, call.roles, call.reply) == (request, roles, reply)
        assert dict(FUNCTIONS)[call.name] == arity


def test_the_calls_that_are_remembered_are_named_here() -> None:
    assert {f"C_{name}" for name in MEMOS.split()} == MEMO_CALLS
    assert {call.name for call in CALLS if shape_of(call) is Shape.MEMO} == MEMO_CALLS
    arities = {name: dict(FUNCTIONS)[name] for name in MEMO_CALLS}
    assert arities.pop("C_GetAttributeValue") == 4
    assert arities.pop("C_DigestInit") == 2
    arities.pop("C_GetSessionInfo")  # the module is not called
    assert set(arities.values()) == {3}
    for name in arities:
        assert BY_NAME[name].roles == (Role.SESSION, Role.MECHANISM, Role.KEY)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_a_row_says_what_the_calls_table_says(call: Call) -> None:
    shape, begins, ends, private_key, prefix_length, reply_length, prefix, reply = row(call)
    assert shape == shape_of(call)
    assert (begins, ends) == (BEGINS.get(call.name, 0), ENDS.get(call.name, 0))
    assert private_key == (call.name in WITH_PRIVATE_KEY)
    id_, request, answer = PROTOCOL[call.name]
    assert prefix[:prefix_length] == u32(id_) + sized(request.encode())
    assert not any(prefix[prefix_length:] + reply[reply_length:])
    if shape_of(call) is not Shape.COLD_CALL:  # C writes no reply of another
        assert reply[:reply_length] == u32(id_) + sized(answer.encode())
    assert body(call.name, *arguments(call, 1, 1)).startswith(prefix[:prefix_length])


def test_there_is_a_row_for_every_number_and_none_for_0() -> None:
    assert {call.id for call in CALLS} == set(range(1, ROWS))
    assert len(TABLE) * TABLE.itemsize == ROWS * ROW_SIZE
    assert not any(TABLE.tobytes()[:ROW_SIZE])


def test_every_call_with_a_shape_begins_with_its_session() -> None:
    """The hot loop takes the eight bytes behind the prefix for it."""
    for call in CALLS:
        if shape_of(call) is not Shape.COLD_CALL:
            assert call.roles[0] is Role.SESSION
            assert elements(call.request)[0] == "u"
            assert row(call)[5] <= 24  # there is room for no more


def test_replies_that_c_writes_are_the_codecs() -> None:
    for call in CALLS:
        if shape_of(call) in (Shape.IN_OUT, Shape.OUT, Shape.RANDOM):
            assert pack_reply(call, b"data") == row(call)[7][: row(call)[5]] + b"\1" + sized(b"data")
        if shape_of(call) in (Shape.IN, Shape.IN_IN):
            assert pack_reply(call) == row(call)[7][: row(call)[5]]


def test_what_a_chapter_answers_has_a_shape_of_its_own_or_none() -> None:
    """Data calls are forwarded as they are: C does for them what forward.py does."""
    from keyvisor_firmware.broker.answers import ANSWERS

    for call in CALLS:
        if shape_of(call) in (Shape.IN_OUT, Shape.OUT, Shape.IN, Shape.IN_IN):
            assert ANSWERS[call.id] is forward
