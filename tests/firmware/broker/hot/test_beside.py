"""Calls that take long while others are read and answered, and an HSM that is taken away meanwhile; on both paths."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from keyvisor_firmware.broker.limits import Limits
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki import CKM, CKR

from ..encoder import CallFailed, Mechanism, read_reply
from ..in_process import SLOT_ID
from ..peer import SECONDS
from .served import LARGE, Made, Served, Stopped


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


def test_a_private_key_that_takes_long_holds_up_no_quick_call(served: Served) -> None:
    """The mechanism tells; whether Python or the hot loop began the operation makes no difference."""
    slow, quick = served.session(), served.session()
    key = served.call("C_CreateObject", slow, [])
    for _ in range(4):
        served.call("C_SignInit", slow, Mechanism(CKM.RSA_PKCS), key)
        stopped = Stopped(served, "C_Sign")
        signing = served.send("C_Sign", slow, b"digest", 256)
        stopped.wait()
        assert len(served.call("C_GenerateRandom", quick, 8)) == 8
        stopped.leave.set()
        assert served.receive()[0] == signing
        served.call("C_SignInit", slow, Mechanism(CKM.ECDSA), key)  # another is quick
        served.bench.calls.after.clear()
        served.call("C_Sign", slow, b"digest", 256)


def test_what_stands_behind_a_large_frame_is_not_lost(served: Served, stopped: Stopped) -> None:
    slow, quick = served.session(), served.session()
    stopped.leave.set()
    served.call("C_SignUpdate", slow, 2 * LARGE)  # now there is room to read more than one frame at once
    stopped.wait()
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


def test_what_stands_behind_a_signature_that_takes_long_is_not_lost(served: Served) -> None:
    slow, quick = served.session(), served.session()
    key = served.call("C_CreateObject", slow, [])
    for _ in range(4):
        served.call("C_SignInit", slow, Mechanism(CKM.RSA_PKCS), key)
        stopped = Stopped(served, "C_Sign")
        content = served.frame("C_Sign", slow, b"digest", 256)
        signing = served.code
        content += b"".join(served.frame("C_GenerateRandom", quick, 8) for _ in range(5))
        served.socket.sendall(content)
        assert [served.receive()[0] for _ in range(5)] == list(range(signing + 1, signing + 6))
        stopped.leave.set()
        assert served.receive()[0] == signing


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
