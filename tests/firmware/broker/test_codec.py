"""Requests and replies against the second description of the protocol, and against bytes that follow none."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_firmware.broker.calls import BY_NAME, CALLS, Call
from keyvisor_firmware.broker.codec import Needed, elements, pack_error, pack_reply, read_id, read_request
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.errors import Failed, ProtocolError
from keyvisor_firmware.broker.key_store import KeyStore
from keyvisor_firmware.broker.mechanism_parameters import Encoding
from keyvisor_firmware.broker.serve import serve
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki import CKM, CKR
from keyvisor_hsm.cryptoki.native import Attribute
from keyvisor_hsm.cryptoki.native import Mechanism as NativeMechanism

from .encoder import (
    HANDSHAKE,
    PROTOCOL,
    CallFailed,
    Mechanism,
    Needs,
    body,
    read_reply,
    sized,
    split,
    u32,
)
from .in_process import AnyFunction, Bench, NoModule

OLD, NEW = Encoding.UP_TO_0_25_5, Encoding.FROM_0_25_6

_U32, _U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
_TEMPLATES = st.lists(st.tuples(st.just(0x3), st.binary(max_size=16)), max_size=4)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "y": st.integers(0, 255),
    "u": _U64,
    "z": st.binary(max_size=40),
    "s": st.binary(min_size=32, max_size=32),
    "ay": st.one_of(st.none(), st.binary(max_size=40)),
    "fy": _U32,
    "fu": _U32,
    "aA": _TEMPLATES,
    "fA": st.lists(st.tuples(_U32, _U32), max_size=4),
    "M": st.sampled_from((Mechanism(CKM.AES_ECB), Mechanism(CKM.SHA256), None)),
}


def decoded(kind: str, value: Any) -> Any:
    """What the broker makes of a value."""
    if kind == "aA":
        return tuple(Attribute(*one) for one in value)
    if kind == "fA":
        return tuple(value)
    if kind in "zs":
        return value[:32].ljust(32)
    if kind == "M":
        return None if value is None else value.type
    return value


def comparable(value: Any) -> Any:
    return value.type if isinstance(value, NativeMechanism) else value


# --- requests


@given(st.data())
def test_every_request_is_read_as_it_was_written(data: st.DataObject) -> None:
    call = data.draw(st.sampled_from(CALLS))
    kinds = split(PROTOCOL[call.name][1])
    values = [data.draw(_VALUES[kind]) for kind in kinds]
    found, got = read_request(body(call.name, *values), OLD)
    assert found is call
    assert [comparable(value) for value in got] == [
        decoded(kind, value) for kind, value in zip(kinds, values, strict=True)
    ]


@given(st.data())
def test_a_request_that_is_cut_or_too_long_is_no_request(data: st.DataObject) -> None:
    call = data.draw(st.sampled_from(CALLS))
    whole = body(call.name, *[data.draw(_VALUES[kind]) for kind in split(PROTOCOL[call.name][1])])
    length = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ProtocolError):
        read_request(whole[:length], OLD)
    with pytest.raises(ProtocolError, match="left"):
        read_request(whole + data.draw(st.binary(min_size=1, max_size=9)), OLD)


@given(st.binary(max_size=200), st.sampled_from(Encoding))
def test_arbitrary_bytes_are_refused_in_two_ways_only(data: bytes, encoding: Encoding) -> None:
    with pytest.raises((ProtocolError, Failed)):
        read_request(data, encoding)


@given(st.sampled_from(CALLS), st.binary(max_size=200), st.sampled_from(Encoding))
def test_arbitrary_arguments_are_read_or_refused_in_two_ways_only(
    call: Call, data: bytes, encoding: Encoding
) -> None:
    with contextlib.suppress(ProtocolError, Failed):
        read_request(u32(call.id) + sized(call.request.encode()) + data, encoding)


@settings(max_examples=300)
@given(st.data())
def test_no_request_ends_the_thread_that_answers_it(data: st.DataObject) -> None:
    """Whatever comes is answered or closes the connection; nothing else is raised by anything behind the codec."""
    store = KeyStore(NoModule())  # type: ignore[arg-type]  # stands in for a partition
    store.call = AnyFunction()
    bench = Bench(store, data.draw(st.sampled_from(("ep11", "accel"))))
    bench.grant(data.draw(st.sampled_from(HsmState)))
    application = bench.connect()
    for _ in range(data.draw(st.integers(1, 4))):
        call = data.draw(st.sampled_from(CALLS))
        values = [data.draw(_VALUES[kind]) for kind in split(call.request)]
        if values and call.request.startswith("u"):
            values[0] = data.draw(st.sampled_from((values[0], 1, bench.slot.id)))
        content = bytearray(body(call.name, *values))
        if data.draw(st.booleans()):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        application.connection.ended = True  # nothing waits for a slot event that nobody makes
        try:
            reply = application.exchange(bytes(content))
        except ProtocolError:
            continue
        assert reply[:4] in (content[:4], bytes(4))


@pytest.mark.parametrize("id_", [0, 90, 255, 2**32 - 1])
def test_part2_T14_an_unknown_call_is_answered(id_: int) -> None:
    with pytest.raises(Failed) as failed:
        read_request(u32(id_) + sized(b"u") + bytes(8), OLD)
    assert failed.value.rv is CKR.FUNCTION_NOT_SUPPORTED


@pytest.mark.parametrize("signature", [b"", b"uu", b"u\0", b"U", b"uay"])
def test_the_signature_must_be_the_tables(signature: bytes) -> None:
    with pytest.raises(ProtocolError, match="C_CloseSession does not come with the signature `u`"):
        read_request(u32(11) + sized(signature) + bytes(8), OLD)


def test_an_absent_byte_array_still_has_a_length() -> None:
    """The trap of section 4.4: what stands behind must not be misread."""
    call, values = read_request(
        u32(15) + sized(b"uayay") + bytes(8) + b"\0" + u32(77) + b"\1" + sized(b"pin"), OLD
    )
    assert (call.name, values) == ("C_SetPIN", (0, None, b"pin"))


def test_a_byte_array_of_all_ones_is_a_null_pointer() -> None:
    assert read_request(u32(39) + sized(b"uay") + bytes(8) + b"\1" + u32(2**32 - 1), OLD)[1] == (0, None)


@pytest.mark.parametrize("name", [call.name for call in CALLS if "M" in call.request])
def test_clients_from_0_25_6_on_are_read_too(name: str) -> None:
    kinds = split(PROTOCOL[name][1])
    sample: dict[str, Any] = {"u": 7, "M": Mechanism(CKM.AES_ECB, bare=True), "aA": [], "fy": 9, "ay": b"x"}
    call, values = read_request(body(name, *(sample[kind] for kind in kinds)), NEW)
    assert call.name == name
    assert [comparable(value) for value in values] == [decoded(kind, sample[kind]) for kind in kinds]


@pytest.mark.parametrize(
    "name", [call.name for call in CALLS if call.name.endswith("Init") and "M" in call.request]
)
def test_a_null_pointer_of_0_25_0_is_read_where_an_operation_begins(name: str) -> None:
    rest = bytes(8) if BY_NAME[name].request == "uMu" else b""
    _, values = read_request(
        u32(BY_NAME[name].id) + sized(BY_NAME[name].request.encode()) + bytes(8) + u32(0) + rest, OLD
    )
    assert values[1] is None


def test_the_id_stands_first() -> None:
    assert read_id(u32(42)) == 42
    with pytest.raises(ProtocolError):
        read_id(b"\0\0\0")


@pytest.mark.parametrize("signature", ["a", "f", "x", "ua", "uayx"])
def test_an_unknown_letter_is_no_signature(signature: str) -> None:
    with pytest.raises(ValueError, match="no element"):
        elements(signature)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_signatures_are_split_alike(call: Call) -> None:
    assert list(elements(call.request)) == split(call.request)
    assert list(elements(call.reply)) == split(call.reply)


# --- replies

_REPLIES: dict[str, tuple[Any, Any]] = {  # what the broker packs, and what the client reads
    "u": (2**64 - 1, 2**64 - 1),
    "v": ((2, 40), (2, 40)),
    "s": (b"padded".ljust(32), b"padded".ljust(32)),
    "ay": (b"bytes", b"bytes"),
    "au": ([1, 2**64 - 1], [1, 2**64 - 1]),
    "aA": ((), []),
    "P": (None, None),
}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_every_reply_is_what_the_client_reads(call: Call) -> None:
    kinds = split(call.reply)
    got = read_reply(call.name, pack_reply(call, *(_REPLIES[kind][0] for kind in kinds)))
    expected = tuple(_REPLIES[kind][1] for kind in kinds)
    assert got == (expected[0] if len(expected) == 1 else expected or None)


@pytest.mark.parametrize("name", ["C_Sign", "C_GetSlotList"])
@pytest.mark.parametrize("size", [0, 1, 2**32 - 1])
def test_a_size_stands_where_the_room_was_too_small(name: str, size: int) -> None:
    assert read_reply(name, pack_reply(BY_NAME[name], Needed(size))) == Needs(size)


@pytest.mark.parametrize("name", ["C_Sign", "C_GetSlotList"])
def test_nothing_is_not_too_little_room(name: str) -> None:
    assert read_reply(name, pack_reply(BY_NAME[name], b"" if name == "C_Sign" else [])) in (b"", [])


def test_a_reply_has_all_its_values() -> None:
    with pytest.raises(ValueError, match="zip"):
        pack_reply(BY_NAME["C_GenerateKeyPair"], 1)


@pytest.mark.parametrize("rv", [1, 0x101, 0x80000001, 2**64 - 1])
def test_an_error_carries_its_number(rv: int) -> None:
    with pytest.raises(CallFailed) as failed:
        read_reply("C_Login", pack_error(rv))
    assert failed.value.rv == rv


def test_the_payload_of_a_byte_array_begins_at_27() -> None:
    """Section 3: 12 bytes of head, then 15."""
    assert pack_reply(BY_NAME["C_Sign"], b"payload").index(b"payload") == 15


# --- the first bytes of every client (section 6)

_FIRST = (
    "00000010 00000006 00000042 636c69656e74 00000001 00000005 6179796179 01 00000029"
    " 505249564154452d474e4f4d452d4b455952494e472d504b435331312d50524f544f434f4c2d562d31 00 01 00000001 00"
)
_FIRST_REPLY = "00000010 00000000 00000008 00000001 00000000"


def test_the_first_request_is_answered_to_the_byte() -> None:
    first = bytes.fromhex(_FIRST)
    assert len(first) == 84
    application, broker = socket.socketpair()
    with application, broker:
        application.sendall(b"\0" + first)
        application.shutdown(socket.SHUT_WR)
        serve(broker, Connection("payments", {}), lambda *_: None)
        assert application.recv(100) == b"\0" + bytes.fromhex(_FIRST_REPLY)


class Trickle(socket.socket):
    """A socket that delivers one byte at a time, however much is there."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        return super().recv(min(size, 1), flags)


def test_the_first_request_may_come_byte_by_byte() -> None:
    application, broker = socket.socketpair()
    with application, Trickle(fileno=broker.detach()) as trickle:
        application.sendall(b"\0" + bytes.fromhex(_FIRST) * 2)
        application.shutdown(socket.SHUT_WR)
        serve(trickle, Connection("payments", {}), lambda *_: None)
        assert application.recv(100)[1:] == bytes.fromhex(_FIRST_REPLY) * 2


@pytest.mark.parametrize("handshake", [None, b"", HANDSHAKE + b"\0", HANDSHAKE[:-1], HANDSHAKE.lower()])
def test_another_handshake_is_refused(handshake: bytes | None) -> None:
    bench = Bench(KeyStore(NoModule()))  # type: ignore[arg-type]  # stands in for a partition
    assert bench.connect().rv("C_Initialize", handshake, 0, b"\0") == CKR.ARGUMENTS_BAD


def test_a_connection_that_ends_in_the_middle_of_a_frame_ends_quietly() -> None:
    for cut in (0, 1, 5, 13, 30, 84):
        application, broker = socket.socketpair()
        with application, broker:
            application.sendall((b"\0" + bytes.fromhex(_FIRST))[:cut])
            application.shutdown(socket.SHUT_WR)
            serve(broker, Connection("payments", {}), lambda *_: None)


def test_a_frame_that_announces_too_much_ends_the_connection_before_it_is_read() -> None:
    application, broker = socket.socketpair()
    with application, broker:
        application.sendall(b"\0" + struct.pack(">III", 1, 0, 2**31))
        with pytest.raises(ProtocolError, match="2147483648 bytes"):
            serve(broker, Connection("payments", {}), lambda *_: None)
