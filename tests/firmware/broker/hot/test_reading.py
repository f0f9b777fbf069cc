"""A connection's bytes, on both paths: cut anywhere, one behind the other, wrong, slow, long, answered while others are read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from keyvisor_firmware.broker import serve as serving
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.errors import ProtocolError, Refused
from keyvisor_firmware.broker.hot.loop import HotLoop
from keyvisor_firmware.broker.limits import Limits
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki import CKA, CKM, CKR

from ..conftest import wait_for
from ..encoder import HANDSHAKE, CallFailed, Mechanism, body, frame, read_reply
from ..in_process import SLOT_ID, Bench, recording
from ..peer import SECONDS

LARGE = bytes(100_000)
Made = Callable[..., "Served"]


class Served:
    """An application in front of a connection's threads, the module a recorder. `end` is what ended the connection."""

    def __init__(self, bench: Bench, limits: Limits, path: HotLoop | None) -> None:
        self.bench = bench
        self.socket, self.broker = socket.socketpair()
        self.socket.settimeout(SECONDS)
        self.connection = Connection("payments", bench.slots, limits, path)
        self.end: BaseException | None = None
        self.code = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        def note(call: str, refused: Refused) -> None:
            self.bench.refused.append((call, refused))

        try:
            with self.broker:
                serving.serve(self.broker, self.connection, note)
        except (ProtocolError, OSError) as end:
            self.end = end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        self.join()

    def join(self) -> None:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    # --- bytes

    def begin(self) -> None:
        self.socket.sendall(b"\0")
        assert self.socket.recv(1) == b"\0"
        self.call("C_Initialize", HANDSHAKE, 0, b"\0")

    def frame(self, name: str, *values: Any, options: bytes = b"client") -> bytes:
        self.code += 1
        return frame(self.code, body(name, *values), options)

    def send(self, name: str, *values: Any) -> int:
        """The code of the request."""
        self.socket.sendall(self.frame(name, *values))
        return self.code

    def receive(self) -> tuple[int, bytes]:
        """The code of the next reply, and its body."""
        code, options, length = struct.unpack(">III", self._take(12))
        assert options == 0
        return code, self._take(length)

    def _take(self, length: int) -> bytes:
        taken = b""
        while len(taken) < length:
            more = self.socket.recv(length - len(taken))
            assert more, "the connection has ended"
            taken += more
        return taken

    def call(self, name: str, *values: Any) -> Any:
        code = self.send(name, *values)
        answered, reply = self.receive()
        assert answered == code
        return read_reply(name, reply)

    def session(self) -> int:
        """A session that the module has opened."""
        handle = self.call("C_OpenSession", SLOT_ID, 6)
        self.call("C_GenerateRandom", handle, 8)
        assert isinstance(handle, int)
        return handle

    def wait_until_read(self) -> None:
        """All that was sent has been received, and whoever reads waits for more."""
        while struct.unpack("i", fcntl.ioctl(self.broker, termios.FIONREAD, bytes(4)))[0]:
            os.sched_yield()


@pytest.fixture
def made(path: HotLoop | None, tmp_path: Path) -> Iterator[Made]:
    """Makes them; at the end of the test all are gone."""
    with contextlib.ExitStack() as stack:

        def make(limits: Limits | None = None) -> Served:
            bench = Bench(recording(tmp_path), compiled=path)
            bench.grant(HsmState.ASSOCIATED)
            return stack.enter_context(Served(bench, limits or Limits(), path))

        yield make


@pytest.fixture
def served(made: Made) -> Served:
    """One that has begun."""
    served = made()
    served.begin()
    return served


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


# --- calls that take long


class Stopped:
    """A function of the module stops inside until it is let go."""

    def __init__(self, served: Served, name: str) -> None:
        self.entered, self.leave = threading.Semaphore(0), threading.Event()
        served.bench.calls.after[name] = self._stop

    def _stop(self) -> None:
        self.entered.release()
        assert self.leave.wait(SECONDS)

    def wait(self) -> None:
        assert self.entered.acquire(timeout=SECONDS)


@pytest.fixture
def stopped(served: Served) -> Iterator[Stopped]:
    stopped = Stopped(served, "C_SignUpdate")
    yield stopped
    stopped.leave.set()


def test_a_large_frame_holds_up_no_quick_call(served: Served, stopped: Stopped) -> None:
    slow, quick = served.session(), served.session()
    for _ in range(3):
        stopped.leave.clear()
        large = served.send("C_SignUpdate", slow, LARGE)
        stopped.wait()
        for _ in range(20):
            assert len(served.call("C_GenerateRandom", quick, 8)) == 8
            assert served.call("C_GetSessionInfo", quick)[0] == SLOT_ID
        stopped.leave.set()
        assert served.receive()[0] == large


def test_what_stands_behind_a_large_frame_is_not_lost(served: Served, stopped: Stopped) -> None:
    slow, quick = served.session(), served.session()
    for behind in (1, 5, 300):
        stopped.leave.clear()
        content = served.frame("C_SignUpdate", slow, LARGE)
        large = served.code
        content += b"".join(served.frame("C_GenerateRandom", quick, 8) for _ in range(behind))
        cut = len(content) - 7
        served.socket.sendall(content[:cut])
        stopped.wait()
        served.socket.sendall(content[cut:])
        assert [served.receive()[0] for _ in range(behind)] == list(range(large + 1, large + behind + 1))
        stopped.leave.set()
        assert served.receive()[0] == large


def test_as_many_large_frames_as_there_may_be_threads_and_more(made: Made) -> None:
    served = made(Limits(operations_in_flight=2))
    served.begin()
    sessions = [served.session() for _ in range(6)]
    for _ in range(3):
        stopped = Stopped(served, "C_SignUpdate")
        frames = [(served.frame("C_SignUpdate", session, LARGE), served.code) for session in sessions]
        sender = threading.Thread(target=served.socket.sendall, args=(b"".join(one for one, _ in frames),))
        sender.start()
        for _ in range(3):  # the first thread and two more are inside, and nobody reads
            stopped.wait()
        stopped.leave.set()
        assert sorted(served.receive()[0] for _ in frames) == [code for _, code in frames]
        sender.join(SECONDS)
        assert len(served.call("C_GenerateRandom", sessions[0], 8)) == 8


def test_no_thread_may_be_made_and_all_is_answered(made: Made) -> None:
    served = made(Limits(operations_in_flight=0))
    served.begin()
    session = served.session()
    content = b"".join(served.frame("C_SignUpdate", session, LARGE) for _ in range(5))
    sender = threading.Thread(target=served.socket.sendall, args=(content,))
    sender.start()
    assert [served.receive()[0] for _ in range(5)] == list(range(served.code - 4, served.code + 1))
    sender.join(SECONDS)


def test_a_session_is_closed_as_soon_as_the_call_inside_is_done(served: Served, stopped: Stopped) -> None:
    """Whoever waits for the session is woken by the hot loop's thread."""
    session, other = served.session(), served.session()
    for behind in ("C_CloseSession", "C_Logout"):
        stopped.leave.clear()
        if behind == "C_Logout":
            served.call("C_Login", session, 1, None)
            served.call(
                "C_SignInit", session, Mechanism(CKM.AES_ECB), served.call("C_CreateObject", session, [])
            )
        large = served.send("C_SignUpdate", session, LARGE)
        stopped.wait()
        ending = served.send(behind, session)
        assert len(served.call("C_GenerateRandom", other, 8)) == 8
        stopped.leave.set()
        assert {served.receive()[0] for _ in range(2)} == {large, ending}
        session = served.session() if behind == "C_CloseSession" else session


def test_an_application_that_goes_while_calls_are_inside(served: Served, stopped: Stopped) -> None:
    sessions = [served.session() for _ in range(2)]
    for session in sessions:
        served.send("C_SignUpdate", session, LARGE)
        stopped.wait()
    served.socket.close()
    stopped.leave.set()
    served.join()
    assert not served.connection.handles.sessions


# --- an HSM that is taken away


@pytest.mark.parametrize("data", [b"data", LARGE], ids=["quick", "long"])
@pytest.mark.parametrize("taken_away", [True, False])
def test_part2_T8_an_answer_is_held_back_until_python_has_looked(
    taken_away: bool, data: bytes, served: Served
) -> None:
    """Where the HSM was but associated anew, under the same binding, it leaves after all."""
    bench = served.bench
    session = served.session()
    served.call("C_SignUpdate", session, data)
    grant = bench.slot.grant
    assert grant is not None
    bench.calls.after["C_SignUpdate"] = (
        bench.revoke if taken_away else lambda: bench.grant(HsmState.ASSOCIATED, binding=grant.binding)
    )
    if not taken_away:
        for _ in range(3):
            assert served.call("C_SignUpdate", session, data) is None
        assert bench.refused == []
        return
    with pytest.raises(CallFailed) as failed:
        served.call("C_SignUpdate", session, data)
    assert failed.value.rv == CKR.DEVICE_REMOVED
    assert [(call, refused.apqn) for call, refused in bench.refused] == [("C_SignUpdate", "03.0011")]
    with pytest.raises(CallFailed) as failed:
        served.call("C_SignUpdate", session, data)
    assert failed.value.rv == CKR.SESSION_HANDLE_INVALID
    assert served.call("C_GetInfo")


def test_part2_T8_revoked_between_two_frames_that_came_together(served: Served) -> None:
    """The second stands in the buffer already when the HSM is taken away; the module never sees it."""
    bench = served.bench
    session = served.session()
    served.call("C_SignUpdate", session, b"data")
    bench.calls.made.clear()
    bench.calls.after["C_SignUpdate"] = bench.revoke
    served.socket.sendall(b"".join(served.frame("C_SignUpdate", session, b"data") for _ in range(5)))
    rvs = []
    for _ in range(5):
        with pytest.raises(CallFailed) as failed:
            read_reply("C_SignUpdate", served.receive()[1])
        rvs.append(failed.value.rv)
    assert rvs == [CKR.DEVICE_REMOVED] + 4 * [CKR.SESSION_HANDLE_INVALID]
    assert bench.calls.made.count("C_SignUpdate") == 1
