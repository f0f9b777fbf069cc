"""Logins and PINs of a guest's applications, through a real gate: whose they are, what they open, where they end."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from keyvisor_firmware.broker.pin_file import NAME
from keyvisor_firmware.broker.pins import MAX_TRIES
from keyvisor_hsm.cryptoki import CKA, CKM, CKR

from .conftest import ACCELERATOR, CRYPTO, OTHER_SECRET, SPARE, Guest, Machine, slot_of
from .encoder import Mechanism
from .peer import RW, SERIAL, Peer

SLOT, SPARE_SLOT = slot_of(CRYPTO), slot_of(SPARE)
SO, USER, CONTEXT = 0, 1, 2
SO_PIN, PIN = b"so-pin-of-payments", b"pin-of-payments"
PROTECTED, INITIALIZED = 1 << 8, 1 << 3
LOW, FINAL, LOCKED = 1 << 16, 1 << 17, 1 << 18
RO_PUBLIC, RO_USER, RW_PUBLIC, RW_USER, RW_SO = range(5)


@pytest.fixture
def guest(machine: Machine) -> Guest:
    guest = machine.guest()
    guest.associate()
    return guest


@pytest.fixture
def fresh(guest: Guest) -> Peer:
    """An application; nobody has set a PIN."""
    return guest.connect()


@pytest.fixture
def application(fresh: Peer) -> Peer:
    """An application; the token has both PINs."""
    give_pins(fresh)
    return fresh


def give_pins(peer: Peer, slot: int = SLOT) -> None:
    peer.call("C_InitToken", slot, SO_PIN, b"payments".ljust(32))
    session = logged_in(peer, SO, SO_PIN, slot)
    peer.call("C_InitPIN", session, PIN)
    peer.call("C_CloseSession", session)


def logged_in(peer: Peer, user: int = USER, pin: bytes | None = PIN, slot: int = SLOT) -> int:
    session = peer.session(slot)
    peer.call("C_Login", session, user, pin)
    return session


def flags(peer: Peer, slot: int = SLOT) -> int:
    found: int = peer.call("C_GetTokenInfo", slot)[4]
    return found & (PROTECTED | INITIALIZED | 0x770000)


def label(peer: Peer, slot: int = SLOT) -> bytes:
    found: bytes = peer.call("C_GetTokenInfo", slot)[0]
    return found


def state(peer: Peer, session: int) -> int:
    found: int = peer.call("C_GetSessionInfo", session)[1]
    return found


# --- without PINs


def test_without_pins_the_token_has_the_protected_path(guest: Guest, fresh: Peer) -> None:
    assert flags(fresh) == PROTECTED | INITIALIZED
    assert label(fresh) == b"03.0011".ljust(32)
    session = fresh.session(SLOT)
    assert fresh.rv("C_Login", session, USER, b"1234") == CKR.PIN_INCORRECT
    assert fresh.rv("C_Login", session, SO, b"12345678") == CKR.USER_PIN_NOT_INITIALIZED
    assert state(fresh, session) == RW_PUBLIC
    assert fresh.rv("C_Login", session, USER, b"") == CKR.OK
    told, _ = guest.keeper.refusals()
    assert [(one.code, one.apqn) for one in told] == [
        ("CKR_PIN_INCORRECT", "03.0011"), ("CKR_USER_PIN_NOT_INITIALIZED", "03.0011")
    ]  # fmt: skip
    assert "log in without" in told[0].reason
    assert "C_InitToken" in told[1].reason


def test_the_first_pin_is_set_by_who_is_logged_in(fresh: Peer) -> None:
    session = fresh.session(SLOT)
    assert fresh.rv("C_SetPIN", session, None, PIN) == CKR.PIN_INCORRECT
    fresh.call("C_Login", session, USER, None)
    assert fresh.rv("C_SetPIN", session, b"1234", PIN) == CKR.PIN_INCORRECT
    fresh.call("C_SetPIN", session, None, PIN)
    assert flags(fresh) == INITIALIZED
    fresh.call("C_Logout", session)
    assert fresh.rv("C_Login", session, USER, None) == CKR.PIN_INCORRECT
    assert flags(fresh) == INITIALIZED  # giving none is no try
    fresh.call("C_Login", session, USER, PIN)


def test_a_bound_accelerator_keeps_the_login_without_a_pin(guest: Guest) -> None:
    guest.keeper.bind(ACCELERATOR)
    peer, slot = guest.connect(), slot_of(ACCELERATOR)
    give_pins(peer)
    assert peer.rv("C_InitToken", slot, SO_PIN, b"no") == CKR.FUNCTION_NOT_SUPPORTED
    session = logged_in(peer, USER, None, slot)
    assert state(peer, session) == RW_USER
    assert peer.rv("C_SetPIN", session, None, PIN) == CKR.FUNCTION_NOT_SUPPORTED
    assert flags(peer, slot) == PROTECTED | INITIALIZED


def test_a_session_opened_while_the_hsm_was_bound_logs_in_after_association(machine: Machine) -> None:
    guest = machine.guest()
    guest.keeper.bind(CRYPTO)
    peer = guest.connect()
    session = peer.session(SLOT)
    peer.call("C_GenerateRandom", session, 8)
    assert peer.rv("C_Login", session, USER, None) == CKR.USER_NOT_LOGGED_IN
    guest.keeper.associate(CRYPTO, guest.keys())
    peer.call("C_Login", session, USER, None)
    peer.aes_key(session)
    peer.call("C_SetPIN", session, None, PIN)
    assert state(peer, session) == RW_USER


# --- the token made anew


def test_a_new_token_has_its_label_and_waits_for_the_users_pin(fresh: Peer) -> None:
    fresh.call("C_InitToken", SLOT, SO_PIN, b"payments".ljust(32) + b"trailing garbage")
    assert label(fresh) == b"payments".ljust(32)
    assert not flags(fresh)
    assert fresh.rv("C_Login", fresh.session(SLOT), USER, None) == CKR.USER_PIN_NOT_INITIALIZED


def test_a_token_is_made_anew_with_its_own_so_pin_only(application: Peer) -> None:
    for wrong in (b"wrong so pin", PIN, b"", None):
        assert application.rv("C_InitToken", SLOT, wrong, b"other") == CKR.PIN_INCORRECT
    assert flags(application) == INITIALIZED | LOW << 4
    assert label(application) == b"payments".ljust(32)
    application.call("C_InitToken", SLOT, SO_PIN, b"other")
    assert label(application) == b"other".ljust(32)
    assert not flags(application)


def test_no_session_may_be_open_anywhere(guest: Guest, fresh: Peer) -> None:
    guest.associate(SPARE)
    with Peer(guest.keeper.door) as other:
        for slot in (SLOT, SPARE_SLOT):  # both lead to the same keys
            session = other.session(slot)
            assert fresh.rv("C_InitToken", SLOT, SO_PIN, b"new") == CKR.SESSION_EXISTS
            other.call("C_CloseSession", session)
        assert fresh.rv("C_InitToken", SLOT, SO_PIN, b"new") == CKR.OK


def test_all_objects_are_destroyed_and_the_partition_goes_on(guest: Guest, fresh: Peer) -> None:
    session = logged_in(fresh, USER, None)
    fresh.ec_key_pair(session, token=True)
    fresh.aes_key(session, (CKA.TOKEN, True), (CKA.MODIFIABLE, False))
    fresh.call("C_CloseSession", session)
    give_pins(fresh)
    session = logged_in(fresh)
    assert fresh.find(session) == []
    fresh.aes_key(session, (CKA.TOKEN, True))
    os.kill(guest.gate(), signal.SIGKILL)
    again = guest.connect()
    assert len(again.find(logged_in(again))) == 1


def test_what_must_not_be_destroyed_keeps_the_token_as_it_is(fresh: Peer) -> None:
    """Else who makes the token anew would get at the last user's key."""
    session = logged_in(fresh, USER, None)
    fresh.aes_key(session, (CKA.TOKEN, True))
    fresh.aes_key(session, (CKA.TOKEN, True), (CKA.DESTROYABLE, b"\0"))
    fresh.call("C_SetPIN", session, None, PIN)
    fresh.call("C_CloseSession", session)
    assert fresh.rv("C_InitToken", SLOT, SO_PIN, b"new") == CKR.FUNCTION_FAILED
    assert len(fresh.find(logged_in(fresh))) == 2
    assert flags(fresh) == INITIALIZED


@pytest.mark.parametrize("pin", [None, b"", b"123", b"x" * 256])
def test_pins_have_4_to_255_bytes(pin: bytes | None, application: Peer, guest: Guest) -> None:
    session = logged_in(application, SO, SO_PIN)
    assert application.rv("C_InitPIN", session, pin) == CKR.PIN_LEN_RANGE
    assert application.rv("C_SetPIN", session, SO_PIN, pin) == CKR.PIN_LEN_RANGE
    guest.associate(SPARE, OTHER_SECRET)
    assert application.rv("C_InitToken", SPARE_SLOT, pin, b"new") == CKR.PIN_LEN_RANGE
    assert application.call("C_GetTokenInfo", SLOT)[9:11] == (255, 4)


# --- wrong PINs


def test_wrong_pins_are_counted_told_and_lock(application: Peer) -> None:
    session = application.session(SLOT)
    for left in reversed(range(MAX_TRIES)):
        assert application.rv("C_Login", session, USER, b"wrong") == CKR.PIN_INCORRECT
        told = LOW | (FINAL if left == 1 else 0) | (LOCKED if left == 0 else 0)
        assert flags(application) == INITIALIZED | told
    assert application.rv("C_Login", session, USER, PIN) == CKR.PIN_LOCKED
    assert application.rv("C_SetPIN", session, PIN, b"another") == CKR.PIN_LOCKED
    assert state(application, session) == RW_PUBLIC
    application.call("C_Login", session, SO, SO_PIN)
    application.call("C_InitPIN", session, b"another")
    application.call("C_Logout", session)
    assert flags(application) == INITIALIZED
    application.call("C_Login", session, USER, b"another")


def test_the_so_is_locked_out_too(application: Peer) -> None:
    session = application.session(SLOT)
    for _ in range(MAX_TRIES):
        assert application.rv("C_Login", session, SO, b"wrong") == CKR.PIN_INCORRECT
    assert flags(application) == INITIALIZED | (LOW | LOCKED) << 4
    assert application.rv("C_Login", session, SO, SO_PIN) == CKR.PIN_LOCKED
    application.call("C_CloseSession", session)
    assert application.rv("C_InitToken", SLOT, SO_PIN, b"new") == CKR.PIN_LOCKED
    logged_in(application)


def test_a_right_pin_clears_what_was_counted(application: Peer) -> None:
    session = application.session(SLOT)
    assert application.rv("C_Login", session, USER, b"wrong") == CKR.PIN_INCORRECT
    application.call("C_Login", session, USER, PIN)
    assert flags(application) == INITIALIZED


def test_tries_are_counted_across_connections_and_restarts(guest: Guest, application: Peer) -> None:
    assert application.rv("C_Login", application.session(SLOT), USER, b"wrong") == CKR.PIN_INCORRECT
    with Peer(guest.keeper.door) as other:
        assert flags(other) == INITIALIZED | LOW
    os.kill(guest.gate(), signal.SIGKILL)
    again = guest.connect()
    assert flags(again) == INITIALIZED | LOW
    assert label(again) == b"payments".ljust(32)
    logged_in(again)


def test_tries_at_the_same_time_are_all_counted(guest: Guest, application: Peer) -> None:
    """Whoever tries on many connections at once gets no more tries."""
    answers: list[int] = []
    peers = [guest.connect() for _ in range(MAX_TRIES + 4)]
    sessions = [peer.session(SLOT) for peer in peers]

    def attempt(peer: Peer, session: int) -> None:
        answers.append(peer.rv("C_Login", session, USER, b"wrong"))

    threads = [threading.Thread(target=attempt, args=both) for both in zip(peers, sessions, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [CKR.PIN_INCORRECT] * MAX_TRIES + [CKR.PIN_LOCKED] * 4
    assert application.rv("C_Login", application.session(SLOT), USER, PIN) == CKR.PIN_LOCKED


# --- who may what


def test_a_login_is_the_connections_own(guest: Guest, application: Peer) -> None:
    session = logged_in(application)
    application.aes_key(session, (CKA.TOKEN, True))
    with Peer(guest.keeper.door) as other:
        theirs = other.session(SLOT)
        assert state(other, theirs) == RW_PUBLIC
        assert other.find(theirs) == []
        assert other.rv("C_Logout", theirs) == CKR.USER_NOT_LOGGED_IN
        assert other.rv("C_Login", theirs, USER, b"wrong") == CKR.PIN_INCORRECT
    assert state(application, session) == RW_USER


def test_one_at_a_time_is_logged_in(application: Peer) -> None:
    session = logged_in(application)
    assert application.rv("C_Login", session, USER, b"wrong") == CKR.USER_ALREADY_LOGGED_IN
    assert application.rv("C_Login", session, SO, SO_PIN) == CKR.USER_ANOTHER_ALREADY_LOGGED_IN
    application.call("C_Logout", session)
    application.call("C_Login", session, SO, SO_PIN)
    assert application.rv("C_Login", session, SO, SO_PIN) == CKR.USER_ALREADY_LOGGED_IN
    assert application.rv("C_Login", session, USER, PIN) == CKR.USER_ANOTHER_ALREADY_LOGGED_IN
    assert application.rv("C_Login", session, 3, PIN) == CKR.USER_TYPE_INVALID
    assert flags(application) == INITIALIZED  # none of them was a try


def test_read_only_sessions_and_the_so_exclude_each_other(guest: Guest, application: Peer) -> None:
    read_only, session = application.session(SLOT, flags=SERIAL), application.session(SLOT)
    assert application.rv("C_Login", session, SO, SO_PIN) == CKR.SESSION_READ_ONLY_EXISTS
    application.call("C_CloseSession", read_only)
    application.call("C_Login", session, SO, SO_PIN)
    assert state(application, session) == RW_SO
    assert application.rv("C_OpenSession", SLOT, SERIAL) == CKR.SESSION_READ_WRITE_SO_EXISTS
    assert state(application, application.call("C_OpenSession", SLOT, RW)) == RW_SO
    with Peer(guest.keeper.door) as other:  # whose sessions are no matter
        assert state(other, other.session(SLOT, flags=SERIAL)) == RO_PUBLIC


def test_states_of_sessions_follow_the_user(application: Peer) -> None:
    read_only, session = application.session(SLOT, flags=SERIAL), application.session(SLOT)
    assert (state(application, read_only), state(application, session)) == (RO_PUBLIC, RW_PUBLIC)
    application.call("C_Login", read_only, USER, PIN)
    assert (state(application, read_only), state(application, session)) == (RO_USER, RW_USER)
    application.call("C_Logout", session)
    assert (state(application, read_only), state(application, session)) == (RO_PUBLIC, RW_PUBLIC)


def test_the_so_sees_no_private_objects_and_makes_none(application: Peer) -> None:
    session = logged_in(application)
    public, _ = application.ec_key_pair(session, token=True)
    application.call("C_Logout", session)
    application.call("C_Login", session, SO, SO_PIN)
    assert application.find(session) == [public]
    with pytest.raises(Exception, match=f"{CKR.USER_NOT_LOGGED_IN:#x}"):
        application.aes_key(session)


def test_only_the_so_initialises_the_users_pin(application: Peer) -> None:
    session = application.session(SLOT)
    assert application.rv("C_InitPIN", session, b"another") == CKR.USER_NOT_LOGGED_IN
    application.call("C_Login", session, USER, PIN)
    assert application.rv("C_InitPIN", session, b"another") == CKR.USER_NOT_LOGGED_IN
    read_only = application.session(SLOT, flags=SERIAL)
    assert application.rv("C_InitPIN", read_only, b"another") == CKR.SESSION_READ_ONLY
    assert application.rv("C_SetPIN", read_only, PIN, b"another") == CKR.SESSION_READ_ONLY


@pytest.mark.parametrize("user", [USER, SO, None])
def test_everybody_changes_their_own_pin(user: int | None, application: Peer) -> None:
    own = SO_PIN if user == SO else PIN
    session = application.session(SLOT)
    if user is not None:
        application.call("C_Login", session, user, own)
    assert application.rv("C_SetPIN", session, b"wrong", b"another") == CKR.PIN_INCORRECT
    assert flags(application) == INITIALIZED | (LOW << 4 if user == SO else LOW)
    application.call("C_SetPIN", session, own, b"another")
    assert flags(application) == INITIALIZED
    application.call("C_CloseSession", session)
    session, who = application.session(SLOT), USER if user is None else user
    assert application.rv("C_Login", session, who, own) == CKR.PIN_INCORRECT
    application.call("C_Login", session, who, b"another")


# --- once more, for a key that wants it


def test_a_login_in_context_wants_something_begun(application: Peer) -> None:
    session = application.session(SLOT)
    assert application.rv("C_Login", session, CONTEXT, PIN) == CKR.OPERATION_NOT_INITIALIZED
    application.call("C_Login", session, USER, PIN)
    assert application.rv("C_Login", session, CONTEXT, PIN) == CKR.OPERATION_NOT_INITIALIZED


def test_a_key_that_always_wants_a_login_gets_it(application: Peer) -> None:
    session = logged_in(application)
    private = [(CKA.PRIVATE, True), (CKA.SIGN, True), (CKA.ALWAYS_AUTHENTICATE, True)]
    rsa = [(CKA.MODULUS_BITS, 2048), (CKA.PUBLIC_EXPONENT, b"\1\0\1"), (CKA.VERIFY, True)]
    _, key = application.call(
        "C_GenerateKeyPair", session, Mechanism(CKM.RSA_PKCS_KEY_PAIR_GEN), rsa, private
    )
    application.call("C_SignInit", session, Mechanism(CKM.RSA_PKCS), key)
    assert application.rv("C_Sign", session, b"data", 256) == CKR.USER_NOT_LOGGED_IN
    application.call("C_SignInit", session, Mechanism(CKM.RSA_PKCS), key)
    assert application.rv("C_Login", session, CONTEXT, b"wrong") == CKR.PIN_INCORRECT
    assert flags(application) == INITIALIZED | LOW
    application.call("C_Login", session, CONTEXT, PIN)
    assert len(application.call("C_Sign", session, b"data", 256)) == 256


# --- partitions


def test_other_keys_have_other_pins(machine: Machine, guest: Guest, application: Peer) -> None:
    other = machine.guest("billing")
    other.associate(CRYPTO, OTHER_SECRET)
    peer = other.connect()
    assert flags(peer) == PROTECTED | INITIALIZED
    assert label(peer) == b"03.0011".ljust(32)
    peer.call("C_InitToken", SLOT, b"their so pin", b"billing")
    session = logged_in(peer, SO, b"their so pin")
    peer.call("C_InitPIN", session, b"their pin")
    assert application.rv("C_Login", application.session(SLOT), USER, b"their pin") == CKR.PIN_INCORRECT
    logged_in(application)


def test_a_spare_hsm_with_the_same_keys_has_the_same_pins(guest: Guest, application: Peer) -> None:
    guest.associate(SPARE)
    assert label(application, SPARE_SLOT) == b"payments".ljust(32)
    session = application.session(SPARE_SLOT)
    assert application.rv("C_Login", session, USER, b"wrong") == CKR.PIN_INCORRECT
    assert flags(application) == flags(application, SPARE_SLOT) == INITIALIZED | LOW
    application.call("C_Login", session, USER, PIN)
    assert state(application, application.session(SLOT)) == RW_PUBLIC  # the login is that HSM's


def test_a_damaged_file_lets_nobody_in(machine: Machine, application: Peer) -> None:
    (path,) = machine.partitions.glob(f"*/{NAME}")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    session = application.session(SLOT)
    for user, pin in ((USER, None), (USER, PIN), (SO, SO_PIN)):
        assert application.rv("C_Login", session, user, pin) == CKR.DEVICE_ERROR
    assert application.rv("C_SetPIN", session, PIN, b"another") == CKR.DEVICE_ERROR
    assert application.rv("C_GetTokenInfo", SLOT) == CKR.DEVICE_ERROR
    application.call("C_CloseSession", session)
    assert application.rv("C_InitToken", SLOT, SO_PIN, b"new") == CKR.DEVICE_ERROR
    path.write_bytes(whole)
    logged_in(application)


# --- secrecy


def test_no_pin_is_told_logged_or_kept_in_clear(
    machine: Machine, guest: Guest, application: Peer, capfd: pytest.CaptureFixture[str]
) -> None:
    session = application.session(SLOT)
    application.rv("C_Login", session, USER, b"a-wrong-pin-of-payments")
    application.call("C_SetPIN", session, PIN, b"new-" + PIN)
    guest.keeper.refusals()
    gate = guest.running_gate()
    places = {
        f"/proc/{gate}/{name}": Path(f"/proc/{gate}/{name}").read_bytes() for name in ("cmdline", "environ")
    }
    places |= {path.name: path.read_bytes() for path in machine.home.rglob("*") if path.is_file()}
    places["a refusal"] = repr(guest.keeper.refusals()).encode()
    places["a reply"] = bytes(application.received)
    out, err = capfd.readouterr()
    places["a log line"] = (out + err).encode()
    assert NAME in places
    for where, content in places.items():
        for form in (b"pin-of-payments", b"pin-of-payments".hex().encode(), b"pin-of-payments"[::-1]):
            assert form not in content, where


def test_the_file_is_the_owners_alone(machine: Machine, application: Peer) -> None:
    (path,) = machine.partitions.glob(f"*/{NAME}")
    assert path.stat().st_mode & 0o777 == 0o600
    assert application.rv("C_GetTokenInfo", SLOT) == CKR.OK
