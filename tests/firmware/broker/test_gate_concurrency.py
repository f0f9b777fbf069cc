"""Calls of one connection beside each other: slow ones hold up nobody, waits are parked, half a frame is not waited for."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path

import pytest

from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.errors import ProtocolError
from keyvisor_firmware.broker.limits import Limits
from keyvisor_firmware.broker.serve import serve
from keyvisor_hsm.cards import Mode
from keyvisor_hsm.cryptoki import CKA, CKM, CKR

from .conftest import CRYPTO, Guest, Machine, slot_of
from .encoder import CallFailed, Mechanism, body, frame, read_reply
from .peer import Peer

SLOT = slot_of(CRYPTO)


def keypair(session: int, bits: int = 4096) -> bytes:
    """A request that takes a while."""
    public = ((CKA.MODULUS_BITS, bits), (CKA.TOKEN, False))
    return body(
        "C_GenerateKeyPair", session, Mechanism(CKM.RSA_PKCS_KEY_PAIR_GEN), public, ((CKA.TOKEN, False),)
    )


class Replies:
    """Replies of one connection in the order in which they come."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def next(self) -> tuple[int, bytes]:
        """The code of the next reply, and its body."""
        code, _, length = struct.unpack(">III", self._take(12))
        return code, self._take(length)

    def _take(self, length: int) -> bytes:
        taken = b""
        while len(taken) < length:
            more = self._peer.socket.recv(length - len(taken))
            assert more, "the broker closed the connection"
            taken += more
        return taken


def test_a_slow_call_holds_up_no_other(peer: Peer) -> None:
    slow, quick = peer.session(SLOT, login=True), peer.session(SLOT)
    replies = Replies(peer)
    first = peer.send(keypair(slow))
    others = [peer.send(body("C_GenerateRandom", quick, 16)) for _ in range(20)]
    assert [replies.next()[0] for _ in others] == others
    code, reply = replies.next()
    assert code == first
    assert len(read_reply("C_GenerateKeyPair", reply)) == 2


def test_calls_of_one_session_stay_one_behind_the_other(peer: Peer) -> None:
    session = peer.session(SLOT, login=True)
    replies = Replies(peer)
    sent = [peer.send(keypair(session)), peer.send(body("C_GenerateRandom", session, 16))]
    assert [replies.next()[0] for _ in sent] == sent


def test_more_slow_calls_than_workers_are_all_answered(peer: Peer) -> None:
    sessions = [peer.session(SLOT, login=index == 0) for index in range(Limits().operations_in_flight + 3)]
    replies = Replies(peer)
    sent = {peer.send(keypair(session, 2048)): session for session in sessions}
    for _ in sessions:
        code, reply = replies.next()
        assert len(read_reply("C_GenerateKeyPair", reply)) == 2
        del sent[code]
    assert not sent


def test_a_session_is_not_closed_under_a_call(peer: Peer) -> None:
    session = peer.session(SLOT, login=True)
    replies = Replies(peer)
    made = peer.send(keypair(session))
    closed = peer.send(body("C_CloseSession", session))
    answers = dict(replies.next() for _ in range(2))
    assert len(read_reply("C_GenerateKeyPair", answers[made])) == 2
    read_reply("C_CloseSession", answers[closed])


def test_an_application_that_dies_inside_a_slow_call_takes_nobody_along(shared: Guest) -> None:
    other = shared.connect()
    with other, shared.connect() as dying:
        gate = shared.running_gate()
        dying.send(keypair(dying.session(SLOT, login=True)))
        dying.close()
        assert len(other.call("C_GenerateRandom", other.session(SLOT), 16)) == 16
    assert shared.running_gate() == gate


# --- slot events


def waiting(peer: Peer) -> int:
    """Park a wait; the code of its reply. A call behind it shows that it holds up nobody."""
    code = peer.send(body("C_WaitForSlotEvent", 0))
    behind = peer.send(body("C_GetInfo"))
    assert Replies(peer).next()[0] == behind
    return code


def test_there_is_no_event_without_a_change(peer: Peer) -> None:
    assert peer.rv("C_WaitForSlotEvent", 1) == CKR.NO_EVENT


def test_a_parked_wait_ends_when_an_hsm_comes_or_goes(machine: Machine) -> None:
    guest = machine.guest()
    changes = (
        lambda: guest.keeper.bind(CRYPTO),
        lambda: guest.associate(),
        lambda: guest.keeper.unbind(CRYPTO),
        lambda: guest.keeper.detach(CRYPTO),
        lambda: guest.keeper.attach(machine.about(CRYPTO, Mode.EP11)),
    )
    with guest.connect() as peer:
        for change in changes:
            code = waiting(peer)
            change()
            answered, reply = Replies(peer).next()
            assert (answered, read_reply("C_WaitForSlotEvent", reply)) == (code, SLOT)
        assert peer.rv("C_WaitForSlotEvent", 1) == CKR.NO_EVENT


def test_each_connection_is_told_of_each_event_once(machine: Machine) -> None:
    guest = machine.guest()
    with guest.connect() as first, guest.connect() as second:
        guest.keeper.bind(CRYPTO)
        for peer in (first, second):
            assert peer.call("C_WaitForSlotEvent", 1) == SLOT
            assert peer.rv("C_WaitForSlotEvent", 1) == CKR.NO_EVENT


def test_a_wait_ends_when_the_application_finishes(machine: Machine) -> None:
    with machine.guest().connect() as peer:
        code = waiting(peer)
        replies = Replies(peer)
        finished = peer.send(body("C_Finalize"))
        answers = dict(replies.next() for _ in range(2))
        with pytest.raises(CallFailed) as failed:
            read_reply("C_WaitForSlotEvent", answers[code])
        assert failed.value.rv == CKR.CRYPTOKI_NOT_INITIALIZED
        read_reply("C_Finalize", answers[finished])


# --- half a frame


def test_half_a_frame_is_not_waited_for_long() -> None:
    application, broker = socket.socketpair()
    with application, broker:
        application.sendall(b"\0" + frame(1, body("C_GetInfo"))[:7])
        with pytest.raises(ProtocolError, match=r"did not come whole within 0\.05 s"):
            serve(broker, Connection("payments", {}, Limits(frame_seconds=0.05)), lambda *_: None)


def test_between_two_frames_there_is_all_the_time(tmp_path: Path) -> None:
    application, broker = socket.socketpair()
    with application, broker:
        service = threading.Thread(
            target=serve,
            args=(broker, Connection("payments", {}, Limits(frame_seconds=0.01)), lambda *_: None),
        )
        service.start()
        application.sendall(b"\0")
        assert application.recv(1) == b"\0"
        service.join(0.1)  # ten times as long as a frame may take
        application.sendall(frame(1, body("C_GetInfo")))
        assert application.recv(12)[:4] == struct.pack(">I", 1)
        application.shutdown(socket.SHUT_WR)
        service.join()
