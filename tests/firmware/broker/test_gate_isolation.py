"""Connections of one guest: none sees, names or disturbs what is another's."""

from __future__ import annotations

import threading

import pytest

from keyvisor_hsm.cryptoki import CKA, CKM, CKR

from .conftest import CRYPTO, SPARE, Guest, Machine, slot_of
from .encoder import Mechanism
from .peer import SERIAL, Peer

SLOT = slot_of(CRYPTO)


def test_handles_mean_nothing_on_another_connection(shared: Guest, peer: Peer) -> None:
    session = peer.session(SLOT, login=True)
    made = {
        peer.aes_key(session),
        peer.aes_key(session, (CKA.PRIVATE, False)),
        *peer.ec_key_pair(session, token=False),
    }
    with Peer(shared.keeper.door) as other:
        theirs = other.session(SLOT, login=True)
        for number in range(1, max(made) + 20):
            if number != theirs:
                assert other.rv("C_GetSessionInfo", number) == CKR.SESSION_HANDLE_INVALID
                assert other.rv("C_GenerateRandom", number, 8) == CKR.SESSION_HANDLE_INVALID
            assert other.rv("C_EncryptInit", theirs, Mechanism(CKM.AES_ECB), number) == CKR.KEY_HANDLE_INVALID
            assert other.rv("C_DestroyObject", theirs, number) == CKR.OBJECT_HANDLE_INVALID
            assert (
                other.rv("C_GetAttributeValue", theirs, number, [(CKA.LABEL, 9)]) == CKR.OBJECT_HANDLE_INVALID
            )
    assert all(peer.rv("C_GetObjectSize", session, key) == CKR.OK for key in made)


def test_session_objects_are_not_seen_by_another_connection(shared: Guest, peer: Peer) -> None:
    session = peer.session(SLOT, login=True)
    key = peer.aes_key(session, (CKA.PRIVATE, False), label=b"mine")
    with Peer(shared.keeper.door) as other:
        assert other.find(other.session(SLOT, login=True), (CKA.LABEL, b"mine")) == []
    assert peer.find(session, (CKA.LABEL, b"mine")) == [key]


def test_session_objects_are_not_seen_on_a_spare_with_the_same_partition(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate(CRYPTO)
    guest.associate(SPARE)
    peer = guest.connect()
    session, spare = peer.session(SLOT, login=True), peer.session(slot_of(SPARE), login=True)
    key = peer.aes_key(session, (CKA.PRIVATE, False))
    assert peer.find(spare) == []
    for number in range(1, key + 20):
        assert peer.rv("C_EncryptInit", spare, Mechanism(CKM.AES_ECB), number) == CKR.KEY_HANDLE_INVALID
    assert peer.find(session) == [key]


def test_closing_all_sessions_closes_ones_own(shared: Guest, peer: Peer) -> None:
    session = peer.session(SLOT)
    with Peer(shared.keeper.door) as other:
        theirs = [other.session(SLOT), other.session(SLOT)]
        other.call("C_CloseAllSessions", SLOT)
        assert {other.rv("C_GetSessionInfo", one) for one in theirs} == {CKR.SESSION_HANDLE_INVALID}
    assert peer.rv("C_GetSessionInfo", session) == CKR.OK


def test_the_token_counts_ones_own_sessions(shared: Guest, peer: Peer) -> None:
    peer.session(SLOT)
    peer.session(SLOT, flags=SERIAL)
    with Peer(shared.keeper.door) as other:
        assert other.call("C_GetTokenInfo", SLOT)[6] == 0
    assert (peer.call("C_GetTokenInfo", SLOT)[6], peer.call("C_GetTokenInfo", SLOT)[8]) == (2, 1)


def test_an_application_that_dies_takes_its_session_objects_along(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate()
    peer = guest.connect()
    session = peer.session(SLOT, login=True)
    for name in (b"one", b"two"):
        guest_peer = guest.connect()
        theirs = guest_peer.session(SLOT, login=True)
        guest_peer.aes_key(theirs, label=name)
        guest_peer.aes_key(theirs, (CKA.TOKEN, True), label=b"token")
        guest_peer.close()
    assert len(peer.find(session)) == len(peer.find(session, (CKA.LABEL, b"token"))) == 2


def test_a_token_object_that_another_connection_destroyed_is_gone(shared: Guest, peer: Peer) -> None:
    session = peer.session(SLOT, login=True)
    key = peer.aes_key(session, (CKA.TOKEN, True), label=b"short-lived")
    with Peer(shared.keeper.door) as other:
        theirs = other.session(SLOT, login=True)
        (same,) = other.find(theirs, (CKA.LABEL, b"short-lived"))
        other.call("C_DestroyObject", theirs, same)
        assert other.rv("C_DestroyObject", theirs, same) == CKR.OBJECT_HANDLE_INVALID
    assert peer.rv("C_EncryptInit", session, Mechanism(CKM.AES_ECB), key) in {
        CKR.OBJECT_HANDLE_INVALID,
        CKR.KEY_HANDLE_INVALID,
    }


def test_connections_make_find_and_destroy_keys_at_the_same_time(machine: Machine) -> None:
    """SoftHSM 2.6.1 by itself fails in one of a hundred such rounds (its issue 573)."""
    guest = machine.guest()
    guest.associate()
    faults: list[BaseException] = []

    def work(peer: Peer) -> None:
        try:
            session = peer.session(SLOT, login=True)
            for _ in range(120):
                key = peer.aes_key(session, (CKA.TOKEN, True))
                peer.find(session)
                peer.call("C_DestroyObject", session, key)
        except BaseException as fault:  # told by the test's own thread
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(guest.connect(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults == []


# --- private objects


def test_private_objects_are_invisible_without_a_login(shared: Guest, peer: Peer) -> None:
    session = peer.session(SLOT, login=True)
    public, private = peer.ec_key_pair(session, token=True, label=b"visible")
    with Peer(shared.keeper.door) as other:
        theirs = other.session(SLOT)
        assert len(other.find(theirs, (CKA.LABEL, b"visible"))) == 1
        assert other.find(theirs, (CKA.LABEL, b"visible"), (CKA.PRIVATE, True)) == []
        other.call("C_Login", theirs, 1, None)
        assert len(other.find(theirs, (CKA.LABEL, b"visible"))) == 2
    for key in (public, private):
        peer.call("C_DestroyObject", session, key)


@pytest.mark.parametrize("again", [False, True])
def test_a_private_objects_number_is_good_for_nothing_after_logout(again: bool, peer: Peer) -> None:
    session = peer.session(SLOT, login=True)
    public, private = peer.ec_key_pair(session, token=True)
    peer.call("C_Logout", session)
    if again:
        peer.call("C_Login", session, 1, None)
    assert peer.rv("C_SignInit", session, Mechanism(CKM.ECDSA), private) == CKR.KEY_HANDLE_INVALID
    assert peer.rv("C_DestroyObject", session, private) == CKR.OBJECT_HANDLE_INVALID
    assert peer.rv("C_VerifyInit", session, Mechanism(CKM.ECDSA), public) == CKR.OK
    if not again:
        peer.call("C_Login", session, 1, None)
    with_login = peer.session(SLOT)
    for key in peer.find(with_login):
        peer.call("C_DestroyObject", with_login, key)


def test_logging_out_on_one_connection_is_not_logging_out_on_another(shared: Guest, peer: Peer) -> None:
    session = peer.session(SLOT, login=True)
    key = peer.aes_key(session)
    with Peer(shared.keeper.door) as other:
        theirs = other.session(SLOT, login=True)
        other.call("C_Logout", theirs)
    assert len(peer.encrypt(session, key, bytes(16))) == 16


def test_a_logout_ends_what_was_begun(peer: Peer) -> None:
    session = peer.session(SLOT, login=True)
    _, key = peer.ec_key_pair(session, token=False)
    peer.call("C_SignInit", session, Mechanism(CKM.ECDSA), key)
    peer.call("C_Logout", session)
    assert peer.rv("C_Sign", session, bytes(32), 512) == CKR.OPERATION_NOT_INITIALIZED
