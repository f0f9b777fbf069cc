"""A connection's bytes, on both paths: cut anywhere, one behind the other, wrong, or slow in coming."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest

from keyvisor_firmware.broker import serve as serving
from keyvisor_firmware.broker.errors import ProtocolError
from keyvisor_firmware.broker.hot.loop import HotLoop
from keyvisor_firmware.broker.limits import Limits
from keyvisor_hsm.cryptoki import CKA, CKM

from ..conftest import wait_for
from ..encoder import HANDSHAKE, Mechanism, body, frame, read_reply
from ..in_process import SLOT_ID
from .served import Made, Served

# --- whole frames


def test_after_the_first_calls_none_is_pythons(
    served: Served, path: HotLoop | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All data calls are the hot loop's, and all that is remembered; without it all are Python's."""
    session = served.session()
    key = served.call("C_CreateObject", session, [])
    calls = (
        ("C_SignInit", Mechanism(CKM.AES_ECB), key),
        ("C_SignUpdate", b"data"),
        ("C_SignFinal", 64),
        ("C_DigestInit", Mechanism(CKM.SHA256)),
        ("C_Digest", b"data", 64),
        ("C_Verify", b"data", b"signature"),
        ("C_GetAttributeValue", key, [(CKA.LABEL, 64), (CKA.CLASS, 8)]),
        ("C_GetSessionInfo",),
        ("C_GenerateRandom", 32),
    )
    for name, *values in calls:
        served.call(name, session, *values)
    read, performed = [], []
    read_request, perform = serving.read_request, serving.perform
    monkeypatch.setattr(serving, "read_request", lambda *given: (read.append(1), read_request(*given))[1])
    monkeypatch.setattr(serving, "perform", lambda *given: (performed.append(1), perform(*given))[1])
    rounds = 50
    served.bench.calls.made.clear()
    for _ in range(rounds):
        for name, *values in calls:
            served.call(name, session, *values)
    expected = 0 if path is not None else rounds * len(calls)
    assert (len(read), len(performed)) == (expected, expected)
    assert len(served.bench.calls.made) == rounds * (
        len(calls) - 1
    )  # all but C_GetSessionInfo are the module's


def test_a_frame_may_be_cut_anywhere(served: Served) -> None:
    session = served.session()
    for name, *values in (("C_GenerateRandom", 8), ("C_SignUpdate", b"data"), ("C_GetObjectSize", 1)):
        whole = len(served.frame(name, session, *values))
        for cut in range(1, whole):
            content = served.frame(name, session, *values)
            served.socket.sendall(content[:cut])
            served.wait_until_read()
            served.socket.sendall(content[cut:])
            assert served.receive()[0] == served.code


def test_frames_behind_each_other_may_be_cut_anywhere(served: Served) -> None:
    session = served.session()
    for cut in range(1, 150):
        content = b"".join(served.frame("C_GenerateRandom", session, size) for size in (1, 2, 3, 4))
        served.socket.sendall(content[:cut])
        served.wait_until_read()
        served.socket.sendall(content[cut:])
        replies = [served.receive() for _ in range(4)]
        assert [code for code, _ in replies] == list(range(served.code - 3, served.code + 1))
        assert [len(read_reply("C_GenerateRandom", reply)) for _, reply in replies] == [1, 2, 3, 4]


def test_many_frames_at_once_are_answered_in_their_order(served: Served) -> None:
    session = served.session()
    names = [("C_GenerateRandom", (session, 8)), ("C_GetInfo", ()), ("C_SignUpdate", (session, b"x"))] * 60
    served.socket.sendall(b"".join(served.frame(name, *values) for name, values in names))
    codes = [served.receive()[0] for _ in names]
    assert codes == list(range(served.code - len(names) + 1, served.code + 1))


@pytest.mark.parametrize("length", [0, 1, 11, 4096])
def test_options_are_passed_over(length: int, served: Served) -> None:
    session = served.session()
    for _ in range(3):
        content = served.frame("C_GenerateRandom", session, 8, options=bytes(length))
        served.socket.sendall(content)
        assert served.receive()[0] == served.code


def test_the_first_byte_may_come_with_all_the_rest(made: Made) -> None:
    served = made()
    hello = served.frame("C_Initialize", HANDSHAKE, 0, b"\0")
    served.socket.sendall(b"\0" + hello + served.frame("C_OpenSession", SLOT_ID, 6))
    assert served.socket.recv(1) == b"\0"
    assert [served.receive()[0] for _ in range(2)] == [1, 2]


# --- what is not the protocol


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ((0, 0, 8), "a frame has the code 0"),
        ((1, 4097, 0), "a frame announces 4097 bytes of options, 4096 at most are taken"),
        ((1, 2**32 - 1, 0), "a frame announces 4294967295 bytes of options, 4096 at most are taken"),
        ((1, 0, 2**25 + 1), "a frame announces 33554433 bytes, 33554432 at most are taken"),
        ((1, 0, 2**32 - 1), "a frame announces 4294967295 bytes, 33554432 at most are taken"),
    ],
)
@pytest.mark.parametrize("before", [0, 3])
def test_a_head_out_of_bounds(head: tuple[int, int, int], said: str, before: int, served: Served) -> None:
    session = served.session()
    content = b"".join(served.frame("C_GenerateRandom", session, 8) for _ in range(before))
    served.socket.sendall(content + struct.pack(">III", *head))
    for _ in range(before):
        served.receive()
    assert served.socket.recv(1) == b""
    served.join()
    assert isinstance(served.end, ProtocolError)
    assert str(served.end) == said
    assert not served.connection.handles.sessions


@pytest.mark.parametrize("kept", [1, 11, 12, 15, 18, 30])
def test_half_a_frame_and_then_silence(kept: int, made: Made) -> None:
    served = made(Limits(frame_seconds=0.05))
    served.begin()
    session = served.session()
    served.socket.sendall(served.frame("C_GenerateRandom", session, 8)[:kept])
    assert served.socket.recv(1) == b""
    served.join()
    assert str(served.end) == "a frame did not come whole within 0.05 s"


def test_a_frame_that_drips_is_not_waited_for_for_ever(made: Made) -> None:
    """Each byte wakes whoever reads, and none of them gives it more time."""
    served = made(Limits(frame_seconds=0.2))
    served.begin()
    content = served.frame("C_GetInfo")
    with contextlib.suppress(OSError):
        for place in range(len(content) - 1):
            served.socket.sendall(content[place : place + 1])
            served._thread.join(0.05)
    served.join()
    assert str(served.end) == "a frame did not come whole within 0.2 s"


@pytest.mark.parametrize("kept", [0, 1, 12, 20])
def test_an_application_that_goes_in_the_middle(kept: int, served: Served) -> None:
    session = served.session()
    served.socket.sendall(served.frame("C_GenerateRandom", session, 8)[:kept])
    served.socket.shutdown(socket.SHUT_WR)
    served.join()
    assert served.end is None
    assert not served.connection.handles.sessions


@pytest.mark.parametrize("cut", [1, 4, 9, 10])
def test_a_call_that_is_not_whole_inside_its_frame(cut: int, served: Served) -> None:
    session = served.session()
    served.call("C_SignUpdate", session, b"0123456789")
    served.socket.sendall(frame(9, body("C_SignUpdate", session, b"0123456789")[:-cut]))
    assert served.socket.recv(1) == b""
    served.join()
    assert str(served.end) == f"10 bytes are announced and {10 - cut} are there"


def test_between_two_frames_there_is_all_the_time_and_no_room_is_kept(
    made: Made, path: HotLoop | None
) -> None:
    served = made(Limits(frame_seconds=0.02))
    served.begin()
    session = served.session()
    served.call("C_SignUpdate", session, bytes(1 << 20))
    if path is not None:
        hot = served.connection.hot
        assert hot is not None
        turn = hot.loop.turn(hot.pointer)
        wait_for(lambda: turn.contents.in_room <= 1 << 18, "the room for a large frame is given back")
    served._thread.join(0.1)
    assert len(served.call("C_GenerateRandom", session, 8)) == 8


# --- replies


def test_a_reply_that_is_taken_slowly_comes_whole(made: Made) -> None:
    """The kernel takes a part of it, and the rest when there is room again."""
    served = made(Limits(frame_seconds=0.4))
    served.begin()
    session = served.session()
    for _ in range(2):
        served.send("C_GenerateRandom", session, 1 << 20)
        served._thread.join(0.6)
        _, reply = served.receive()
        assert len(read_reply("C_GenerateRandom", reply)) == 1 << 20
    assert len(served.call("C_GenerateRandom", session, 8)) == 8


def test_a_reply_that_is_never_taken_ends_the_connection(made: Made) -> None:
    served = made(Limits(frame_seconds=0.05))
    served.begin()
    served.send("C_GenerateRandom", served.session(), 1 << 20)
    served.join()
    assert isinstance(served.end, BlockingIOError)
    assert not served.connection.handles.sessions
