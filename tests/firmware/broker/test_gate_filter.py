"""The filter as applications meet it, at the door of a real gate."""

from __future__ import annotations

import pytest

from keyvisor_firmware.broker.calls import BY_NAME, CALLS, Access, Role
from keyvisor_hsm.cryptoki import CKA, CKM, CKR

from .conftest import ACCELERATOR, CRYPTO, OTHER_SECRET, SPARE, Guest, Machine, slot_of
from .encoder import CallFailed, Mechanism, body, sized, u32, u64
from .peer import RW, Peer
from .sample_calls import arguments

SENSITIVE = [call for call in CALLS if call.access is Access.SENSITIVE]
SLOT = slot_of(CRYPTO)


def refusals(guest: Guest) -> list[tuple[str, str]]:
    return [(refusal.call, refusal.code) for refusal in guest.keeper.refusals()[0]]


# --- T1


def test_part2_T1_a_bound_hsm_refuses_every_sensitive_call(machine: Machine) -> None:
    guest = machine.guest()
    guest.keeper.bind(CRYPTO)
    peer = guest.connect()
    session = peer.session(SLOT)
    for call in SENSITIVE:
        values = arguments(call, session, SLOT, handle=session)
        assert peer.rv(call.name, *values) == CKR.USER_NOT_LOGGED_IN, call.name
    assert refusals(guest) == [(call.name, "CKR_USER_NOT_LOGGED_IN") for call in SENSITIVE]
    kept, dropped = guest.keeper.refusals()
    assert dropped == 0
    assert all(
        refusal.apqn == str(CRYPTO) and "bound but not associated" in refusal.reason for refusal in kept
    )


def test_part2_T1_a_bound_hsm_serves_what_is_not_sensitive(machine: Machine) -> None:
    guest = machine.guest()
    guest.keeper.bind(CRYPTO)
    peer = guest.connect()
    assert peer.call("C_GetTokenInfo", SLOT)[0] == str(CRYPTO).encode().ljust(32)
    assert CKM.AES_GCM in peer.call("C_GetMechanismList", SLOT, 512)
    assert peer.call("C_GetMechanismInfo", SLOT, int(CKM.AES_KEY_GEN))[:2] == (16, 32)
    session = peer.session(SLOT)
    assert peer.call("C_GetSessionInfo", session) == (SLOT, 2, RW, 0)
    assert len(set(peer.call("C_GenerateRandom", session, 32))) > 8
    peer.call("C_SeedRandom", session, b"seed")
    peer.call("C_DigestInit", session, Mechanism(CKM.SHA256))
    empty = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    assert peer.call("C_Digest", session, b"", 64) == empty
    peer.call("C_DigestInit", session, Mechanism(CKM.SHA256))
    peer.call("C_DigestUpdate", session, b"ab")
    peer.call("C_DigestUpdate", session, b"c")
    assert peer.call("C_DigestFinal", session, 64).hex().startswith("ba7816bf8f01cfea")
    peer.call("C_CloseSession", session)
    peer.session(SLOT)
    peer.call("C_CloseAllSessions", SLOT)
    assert refusals(guest) == []


def test_part2_T1_an_unbound_hsm_is_a_slot_without_a_token(machine: Machine) -> None:
    guest = machine.guest()
    peer = guest.connect()
    slots = [slot_of(apqn) for apqn in (CRYPTO, SPARE, ACCELERATOR)]
    assert peer.call("C_GetSlotList", 0, 8) == slots
    assert peer.call("C_GetSlotList", 1, 8) == []
    assert b"03.0011 (CEX8, ep11)" in peer.call("C_GetSlotInfo", SLOT)[0]
    for call in CALLS:
        if call.roles[:1] == (Role.SLOT,) and call.name not in ("C_GetSlotInfo", "C_CloseAllSessions"):
            assert peer.rv(call.name, *arguments(call, 1, SLOT)) == CKR.TOKEN_NOT_PRESENT, call.name


def test_part2_T1_an_unbound_hsm_refuses_the_sessions_that_were_open(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate()
    peer = guest.connect()
    sessions = {call: peer.session(SLOT) for call in SENSITIVE}
    guest.keeper.unbind(CRYPTO)
    for call, session in sessions.items():
        rv = peer.rv(call.name, *arguments(call, session, SLOT))
        by_slot = call.roles[0] is Role.SLOT
        assert rv == (CKR.TOKEN_NOT_PRESENT if by_slot else CKR.SESSION_HANDLE_INVALID), call.name


@pytest.mark.parametrize("slot", [0, 1, SLOT + 1, slot_of(CRYPTO) << 8, 2**64 - 1])
def test_a_slot_that_is_not_attached_is_not_there(slot: int, peer: Peer) -> None:
    for call in CALLS:
        if call.roles[:1] == (Role.SLOT,):
            assert peer.rv(call.name, *arguments(call, 1, slot)) == CKR.SLOT_ID_INVALID, call.name


# --- T14


@pytest.mark.parametrize("id_", [0, 90, 91, 1000, 2**32 - 1])
def test_part2_T14_an_unknown_call_is_refused_and_the_connection_lives(id_: int, peer: Peer) -> None:
    reply = peer.exchange(u32(id_) + sized(b"uuayay") + bytes(64))
    assert reply == u32(0) + sized(b"u") + u64(CKR.FUNCTION_NOT_SUPPORTED)
    assert peer.call("C_GetSlotList", 0, 8)


# --- bind, then associate


def test_a_session_of_a_bound_hsm_goes_on_when_it_is_associated(machine: Machine) -> None:
    guest = machine.guest()
    guest.keeper.bind(CRYPTO)
    peer = guest.connect()
    session = peer.session(SLOT)
    peer.call("C_DigestInit", session, Mechanism(CKM.SHA256))
    assert peer.rv("C_Login", session, 1, None) == CKR.USER_NOT_LOGGED_IN
    guest.keeper.associate(CRYPTO, guest.keys())
    peer.call("C_Login", session, 1, None)
    key = peer.aes_key(session)
    assert len(peer.encrypt(session, key, bytes(16))) == 16
    assert peer.rv("C_DigestFinal", session, 64) == CKR.OPERATION_NOT_INITIALIZED


# --- accelerators


def test_an_accelerator_serves_session_objects_from_clear_values(peer: Peer) -> None:
    session = peer.session(slot_of(ACCELERATOR))
    key = peer.clear_key(session, bytes(range(16)), (CKA.LABEL, b"clear"))
    assert peer.encrypt(session, key, bytes(16)).hex() == "c6a13b37878f5b826f4f8162a1c8d879"
    assert peer.find(session, (CKA.LABEL, b"clear")) == [key]
    assert peer.attribute(session, key, CKA.VALUE) == bytes(range(16))
    peer.call("C_SetAttributeValue", session, key, [(CKA.LABEL, b"renamed")])
    peer.call("C_DestroyObject", session, key)
    assert peer.find(session) == []


@pytest.mark.parametrize("token", [True, 1, b"\1", b""])
def test_an_accelerator_keeps_nothing(token: object, peer: Peer, shared: Guest) -> None:
    session = peer.session(slot_of(ACCELERATOR))
    if isinstance(token, bool):
        with pytest.raises(CallFailed) as failed:
            peer.clear_key(session, bytes(16), (CKA.TOKEN, token))
        assert failed.value.rv == CKR.TOKEN_WRITE_PROTECTED
        assert refusals(shared)[-1] == ("C_CreateObject", "CKR_TOKEN_WRITE_PROTECTED")
    key = peer.clear_key(session, bytes(16))
    assert peer.rv("C_SetAttributeValue", session, key, [(CKA.TOKEN, True)]) == CKR.TOKEN_WRITE_PROTECTED
    with Peer(shared.keeper.door) as other:
        assert other.find(other.session(slot_of(ACCELERATOR))) == []


@pytest.mark.parametrize(
    "name", [call.name for call in SENSITIVE if not call.accelerator], ids=lambda name: name
)
def test_an_accelerator_makes_no_keys_and_lets_none_out(name: str, peer: Peer) -> None:
    session = peer.session(slot_of(ACCELERATOR))
    key = peer.clear_key(session, bytes(16))
    values = arguments(BY_NAME[name], session, slot_of(ACCELERATOR), handle=key)
    assert peer.rv(name, *values) == CKR.FUNCTION_NOT_SUPPORTED


def test_an_accelerators_objects_are_not_those_of_a_crypto_hsm(peer: Peer) -> None:
    fast, safe = peer.session(slot_of(ACCELERATOR)), peer.session(SLOT, login=True)
    clear, kept = peer.clear_key(fast, bytes(16)), peer.aes_key(safe)
    for session, key in ((safe, clear), (fast, kept)):
        assert peer.rv("C_EncryptInit", session, Mechanism(CKM.AES_ECB), key) == CKR.KEY_HANDLE_INVALID


# --- T9


def test_part2_T9_the_same_secret_meets_the_same_keys_and_another_meets_none(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate()
    peer = guest.connect()
    session = peer.session(SLOT, login=True)
    secret = peer.aes_key(session, (CKA.TOKEN, True), label=b"kept")
    peer.ec_key_pair(session, token=True, label=b"pair")
    sealed = peer.encrypt(session, secret, bytes(16))

    guest.keeper.unbind(CRYPTO)
    guest.associate(secret=OTHER_SECRET)
    session = peer.session(SLOT, login=True)
    assert peer.find(session) == []
    assert peer.rv("C_EncryptInit", session, Mechanism(CKM.AES_ECB), secret) == CKR.KEY_HANDLE_INVALID

    guest.keeper.unbind(CRYPTO)
    guest.associate()
    session = peer.session(SLOT, login=True)
    assert len(peer.find(session)) == 3
    (again,) = peer.find(session, (CKA.LABEL, b"kept"))
    assert again != secret
    assert peer.encrypt(session, again, bytes(16)) == sealed


def test_part2_T9_the_same_secret_on_another_hsm_with_the_same_master_key(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate(CRYPTO)
    guest.associate(SPARE)
    peer = guest.connect()
    session, spare = peer.session(SLOT, login=True), peer.session(slot_of(SPARE), login=True)
    key = peer.aes_key(session, (CKA.TOKEN, True), label=b"kept")
    (same,) = peer.find(spare, (CKA.LABEL, b"kept"))
    assert same != key
    assert peer.encrypt(spare, same, bytes(16)) == peer.encrypt(session, key, bytes(16))


def test_part2_T9_another_guest_with_the_same_secret_meets_the_same_keys(machine: Machine) -> None:
    one, other = machine.guest("one"), machine.guest("other")
    one.associate()
    peer = one.connect()
    session = peer.session(SLOT, login=True)
    sealed = peer.encrypt(session, peer.aes_key(session, (CKA.TOKEN, True), label=b"kept"), bytes(16))
    one.keeper.unbind(CRYPTO)
    other.associate(SPARE)
    theirs = other.connect()
    session = theirs.session(slot_of(SPARE), login=True)
    (key,) = theirs.find(session, (CKA.LABEL, b"kept"))
    assert theirs.encrypt(session, key, bytes(16)) == sealed


def test_a_call_is_answered_in_the_words_of_the_table(peer: Peer) -> None:
    assert peer.exchange(body("C_Finalize")) == u32(2) + u32(0)
