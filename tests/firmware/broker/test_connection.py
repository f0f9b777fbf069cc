"""Connections on a real partition, the state page in the test's hand: what reaches the module, and what leaves it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyvisor_firmware.broker.calls import BY_NAME, CALLS, Access, Call, Role
from keyvisor_firmware.broker.hot.loop import HotLoop
from keyvisor_firmware.broker.limits import Limits
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki import CKA, CKM, CKR
from keyvisor_hsm.partitions import Partition, PartitionKeys

from .encoder import CallFailed, Mechanism, Needs
from .in_process import SLOT_ID, Application, Bench, store_of
from .sample_calls import arguments

ASSOCIATED, BOUND, UNBOUND = HsmState.ASSOCIATED, HsmState.BOUND, HsmState.UNBOUND
AES = [(CKA.VALUE_LEN, 32), (CKA.ENCRYPT, True), (CKA.DECRYPT, True)]
SENSITIVE = [call for call in CALLS if call.access is Access.SENSITIVE]


@pytest.fixture
def partition(softhsm: Path, tmp_path: Path) -> Iterator[Partition]:
    partition = Partition.open(tmp_path / "p", PartitionKeys("p", b"user pin", b"so pin"), softhsm)
    yield partition
    partition.close()


@pytest.fixture
def bench(partition: Partition, path: HotLoop | None) -> Bench:
    bench = Bench(store_of(partition), compiled=path)
    bench.grant(ASSOCIATED)
    return bench


@pytest.fixture
def application(bench: Bench) -> Application:
    return bench.connect()


def generate(application: Application, session: int, *template: tuple[int, object]) -> int:
    handle = application.call("C_GenerateKey", session, Mechanism(CKM.AES_KEY_GEN), [*AES, *template])
    assert isinstance(handle, int)
    return handle


def found(application: Application, session: int, *template: tuple[int, object]) -> list[int]:
    application.call("C_FindObjectsInit", session, template)
    handles_: list[int] = application.call("C_FindObjects", session, 100)
    application.call("C_FindObjectsFinal", session)
    return handles_


# --- T1: nothing reaches the module


def test_part2_T1_no_sensitive_call_reaches_a_bound_hsm(bench: Bench) -> None:
    bench.grant(BOUND)
    application = bench.connect()
    session = application.session()
    application.call("C_GenerateRandom", session, 8)  # the session is open in the module
    bench.calls.made.clear()
    for call in SENSITIVE:
        values = arguments(call, session, SLOT_ID, handle=session)
        assert application.rv(call.name, *values) == CKR.USER_NOT_LOGGED_IN, call.name
        assert bench.calls.made == [], call.name
    assert [name for name, _ in bench.refused] == [call.name for call in SENSITIVE]
    assert all(refused.apqn == "03.0011" for _, refused in bench.refused)


@pytest.mark.parametrize(
    "call", [call for call in CALLS if call.access is not Access.OPEN], ids=lambda c: c.name
)
def test_part2_T1_no_call_at_all_reaches_an_unbound_hsm(
    call: Call, bench: Bench, application: Application
) -> None:
    session = application.session(login=True)
    key = generate(application, session)
    bench.revoke()
    bench.calls.made.clear()
    rv = application.rv(call.name, *arguments(call, session, SLOT_ID, handle=key))
    assert set(bench.calls.made) <= {"C_CloseSession", "C_GetAttributeValue"}  # what was open is given up
    if call.name in {"C_CloseSession", "C_CloseAllSessions"}:
        assert rv == CKR.OK
    else:
        assert rv == (CKR.SESSION_HANDLE_INVALID if Role.SESSION in call.roles else CKR.TOKEN_NOT_PRESENT)


# --- T8: a state that changes under a call


def test_part2_T8_a_key_that_is_made_while_the_hsm_is_taken_away_is_not_left(
    bench: Bench, application: Application
) -> None:
    session = application.session(login=True)
    bench.calls.after["C_GenerateKeyPair"] = bench.revoke  # inside the module
    public = [(CKA.TOKEN, True), (CKA.MODULUS_BITS, 1024), (CKA.LABEL, b"rsa")]
    private = [(CKA.TOKEN, True), (CKA.LABEL, b"rsa")]
    mechanism = Mechanism(CKM.RSA_PKCS_KEY_PAIR_GEN)
    assert application.rv("C_GenerateKeyPair", session, mechanism, public, private) == CKR.DEVICE_REMOVED
    assert bench.calls.made[-2:] == ["C_DestroyObject", "C_DestroyObject"]
    assert bench.refused[-1][0] == "C_GenerateKeyPair"
    bench.calls.after.clear()
    bench.grant(ASSOCIATED)
    again = bench.connect()
    assert found(again, again.session(login=True), (CKA.LABEL, b"rsa")) == []


@pytest.mark.parametrize(
    "name",
    [
        "C_GenerateKey",
        "C_CreateObject",
        "C_CopyObject",
        "C_GetAttributeValue",
        "C_FindObjects",
        "C_Encrypt",
        "C_GetObjectSize",
        "C_GenerateRandom",
        "C_DestroyObject",
    ],
)
@pytest.mark.parametrize("after", ["unbound", "bound again", "associated again"])
def test_part2_T8_no_reply_leaves_once_the_state_changed(
    name: str, after: str, bench: Bench, application: Application
) -> None:
    session = application.session(login=True)
    key = generate(application, session, (CKA.PRIVATE, False))
    if name == "C_Encrypt":
        application.call("C_EncryptInit", session, Mechanism(CKM.AES_ECB), key)
    if name == "C_FindObjects":
        application.call("C_FindObjectsInit", session, [])
    change = {
        "unbound": bench.revoke,
        "bound again": lambda: bench.grant(BOUND),
        "associated again": lambda: bench.grant(ASSOCIATED),
    }
    bench.calls.after[name] = change[after]
    values = arguments(BY_NAME[name], session, SLOT_ID, handle=key)
    if name == "C_CreateObject":
        values = (session, [(CKA.CLASS, 0), (CKA.PRIVATE, False)])
    if name == "C_GenerateKey":
        values = (session, Mechanism(CKM.AES_KEY_GEN), AES)
    assert application.rv(name, *values) == CKR.DEVICE_REMOVED
    assert name in bench.calls.made


def test_part2_T8_unbound_between_init_and_update(bench: Bench, application: Application) -> None:
    session = application.session(login=True)
    key = generate(application, session)
    application.call("C_EncryptInit", session, Mechanism(CKM.AES_ECB), key)
    bench.grant(UNBOUND)
    bench.grant(ASSOCIATED)  # bound again, to the same keys, before the application looks
    bench.calls.made.clear()
    assert application.rv("C_EncryptUpdate", session, bytes(16), 64) == CKR.SESSION_HANDLE_INVALID
    assert bench.calls.made == ["C_CloseSession"]


def test_part2_T8_handles_end_with_the_binding_even_where_the_next_leads_to_the_same_keys(
    bench: Bench, application: Application
) -> None:
    """The gate clears up aside, maybe later than the HSM is bound again to a partition that is still open."""
    old = application.session(login=True)
    key = generate(application, old, (CKA.TOKEN, True))
    before = bench.slot.grant
    assert before is not None
    bench.grant(UNBOUND)
    bench.grant(ASSOCIATED)
    fresh = application.session(login=True)
    assert application.rv("C_GetObjectSize", fresh, key) == CKR.OBJECT_HANDLE_INVALID
    (again,) = found(application, fresh)
    application.call("C_EncryptInit", fresh, Mechanism(CKM.AES_ECB), again)
    with application.connection.lock:
        application.connection.leave_store(bench.slot, before)
    assert len(application.call("C_Encrypt", fresh, bytes(16), 64)) == 16
    assert application.rv("C_GetSessionInfo", old) == CKR.SESSION_HANDLE_INVALID
    assert application.rv("C_GetObjectSize", fresh, again) == CKR.OK


def test_part2_T8_bound_again_to_the_same_keys_nothing_of_before_is_known(
    bench: Bench, application: Application
) -> None:
    """Not even while what was known before is still to be cleared up."""
    session = application.session(login=True)
    token, own = generate(application, session, (CKA.TOKEN, True)), generate(application, session)
    bench.grant(UNBOUND)
    bench.grant(ASSOCIATED)
    fresh = application.session(login=True)
    for number in (token, own):
        assert application.rv("C_GetObjectSize", fresh, number) == CKR.OBJECT_HANDLE_INVALID
    (found_again,) = found(application, fresh)
    assert found_again > own


def test_the_clearing_up_after_a_binding_leaves_the_next_one_alone(
    bench: Bench, application: Application
) -> None:
    """It may come late, and to the same keys: a spare keeps their partition open."""
    application.session(login=True)
    before = bench.slot.grant
    assert before is not None
    bench.grant(UNBOUND)
    bench.grant(ASSOCIATED)
    session = application.session(login=True)
    key = generate(application, session)
    application.call("C_EncryptInit", session, Mechanism(CKM.AES_ECB), key)
    with application.connection.lock:
        application.connection.leave_store(bench.slot, before)
    assert len(application.call("C_Encrypt", session, bytes(16), 64)) == 16
    assert found(application, session) == [key]


def test_an_operation_that_did_not_begin_costs_no_object_at_a_logout(
    bench: Bench, application: Application
) -> None:
    session = application.session(login=True)
    key = generate(application, session, (CKA.PRIVATE, False))
    assert application.rv("C_EncryptInit", session, Mechanism(CKM.RSA_PKCS), key) != CKR.OK
    application.call("C_Logout", session)
    assert application.rv("C_GetObjectSize", session, key) == CKR.OK


# --- making objects: all of them can be named, or none is left


def test_a_private_key_is_not_made_without_a_login(bench: Bench, application: Application) -> None:
    session = application.session()
    with pytest.raises(CallFailed, match="0x101"):
        generate(application, session, (CKA.TOKEN, True), (CKA.LABEL, b"mine"))
    other = bench.connect()
    assert found(other, other.session(login=True), (CKA.LABEL, b"mine")) == []


def test_half_a_pair_is_not_left_when_the_numbers_run_out(bench: Bench) -> None:
    application = bench.connect(Limits(objects=1))
    session = application.session(login=True)
    template = [(CKA.TOKEN, True), (CKA.LABEL, b"pair")]
    rsa = Mechanism(CKM.RSA_PKCS_KEY_PAIR_GEN)
    assert (
        application.rv("C_GenerateKeyPair", session, rsa, [*template, (CKA.MODULUS_BITS, 1024)], template)
        == CKR.HOST_MEMORY
    )
    other = bench.connect()
    assert found(other, other.session(login=True), (CKA.LABEL, b"pair")) == []
    assert bench.store.owners == {}


# --- who owns what


def test_session_objects_belong_to_a_connection_and_an_hsm(bench: Bench, application: Application) -> None:
    spare = bench.add_slot(0x50011, 1)
    bench.grant(ASSOCIATED, spare)
    application.connection.slots.update(bench.slots)
    session = application.session(login=True)
    key = generate(application, session)
    elsewhere = application.session(login=True, slot=0x50011)
    stranger = bench.connect()
    theirs = stranger.session(login=True)
    assert found(application, session) == [key]
    assert found(application, elsewhere) == []
    assert found(stranger, theirs) == []
    for number in range(1, 40):
        assert stranger.rv("C_GetObjectSize", theirs, number) == CKR.OBJECT_HANDLE_INVALID
        assert application.rv("C_GetObjectSize", elsewhere, number) == CKR.OBJECT_HANDLE_INVALID


def test_session_objects_end_with_their_session(bench: Bench, application: Application) -> None:
    first, second = application.session(login=True), application.session()
    key = generate(application, first)
    assert application.rv("C_GetObjectSize", second, key) == CKR.OK
    application.call("C_CloseSession", first)
    assert application.rv("C_GetObjectSize", second, key) == CKR.OBJECT_HANDLE_INVALID
    assert found(application, second) == []
    assert bench.store.owners == {}


def test_an_application_that_goes_leaves_token_objects_only(bench: Bench, application: Application) -> None:
    session = application.session(login=True)
    generate(application, session, (CKA.TOKEN, True), (CKA.LABEL, b"kept"))
    generate(application, session, (CKA.LABEL, b"gone"))
    with application.connection.lock:
        application.connection.close()
    assert bench.store.owners == {}
    other = bench.connect()
    theirs = other.session(login=True)
    assert len(found(other, theirs)) == len(found(other, theirs, (CKA.LABEL, b"kept"))) == 1


def test_an_object_that_nobody_has_claimed_yet_is_nobodys(bench: Bench, application: Application) -> None:
    """Between the module's answer and the owner's note another connection may look."""
    session = application.session(login=True)
    stranger = bench.connect()
    theirs = stranger.session(login=True)
    seen: list[list[int]] = []
    bench.calls.after["C_GenerateKey"] = lambda: seen.append(found(stranger, theirs))
    key = generate(application, session)
    assert seen == [[]]
    assert found(application, session) == [key]


# --- logins


def test_logins_are_the_connections_own(bench: Bench, application: Application) -> None:
    session = application.session(login=True)
    other = bench.connect()
    theirs = other.session()
    assert application.call("C_GetSessionInfo", session)[1] == 3
    assert other.call("C_GetSessionInfo", theirs)[1] == 2
    assert application.rv("C_Login", session, 1, None) == CKR.USER_ALREADY_LOGGED_IN
    assert other.rv("C_Logout", theirs) == CKR.USER_NOT_LOGGED_IN
    assert not {"C_Login", "C_Logout"} & set(bench.calls.made)


def test_closing_the_last_session_is_a_logout(application: Application) -> None:
    first, second = application.session(login=True), application.session()
    application.call("C_CloseSession", first)
    assert application.rv("C_Login", second, 1, None) == CKR.USER_ALREADY_LOGGED_IN
    application.call("C_CloseSession", second)
    assert application.call("C_GetSessionInfo", application.session())[1] == 2


def test_a_login_ends_with_the_binding(bench: Bench, application: Application) -> None:
    application.session(login=True)
    bench.grant(UNBOUND)
    bench.grant(ASSOCIATED)
    assert application.call("C_GetSessionInfo", application.session())[1] == 2


def test_a_logout_ends_a_search(bench: Bench, application: Application) -> None:
    """Else it goes on naming the private objects that it found."""
    session = application.session(login=True)
    generate(application, session, (CKA.TOKEN, True))
    other = bench.connect()
    theirs = other.session(login=True)
    other.call("C_FindObjectsInit", theirs, [])
    other.call("C_Logout", theirs)
    assert other.rv("C_FindObjects", theirs, 10) == CKR.OPERATION_NOT_INITIALIZED
    assert found(other, theirs) == []


def test_a_logout_ends_what_was_begun(application: Application) -> None:
    """SoftHSM goes on with it (its issue 900)."""
    session = application.session(login=True)
    key = generate(application, session)
    application.call("C_EncryptInit", session, Mechanism(CKM.AES_ECB), key)
    application.call("C_Logout", session)
    assert application.rv("C_Encrypt", session, bytes(16), 64) == CKR.OPERATION_NOT_INITIALIZED


@pytest.mark.parametrize("ends", ["encrypted", "size query", "not at all", "with an error"])
def test_public_session_objects_outlive_a_logout_unless_an_operation_is_under_way(
    ends: str, application: Application
) -> None:
    """An operation can only be ended together with its session in the module, and that takes its objects along."""
    session = application.session(login=True)
    key = generate(application, session, (CKA.PRIVATE, False))
    application.call("C_EncryptInit", session, Mechanism(CKM.AES_ECB), key)
    if ends == "encrypted":
        application.call("C_Encrypt", session, bytes(16), 64)
    if ends == "size query":
        assert application.call("C_Encrypt", session, bytes(16), 0) == Needs(16)
    if ends == "with an error":
        assert application.rv("C_Encrypt", session, bytes(5), 64) == CKR.DATA_LEN_RANGE
    application.call("C_Logout", session)
    outlives = application.rv("C_GetObjectSize", session, key) == CKR.OK
    assert outlives is (ends == "encrypted")


def test_a_logout_ends_private_objects(bench: Bench, application: Application) -> None:
    session = application.session(login=True)
    private, public = generate(application, session), generate(application, session, (CKA.PRIVATE, False))
    kept = generate(application, session, (CKA.TOKEN, True))
    application.call("C_Logout", session)
    for key in (private, kept):
        assert application.rv("C_GetObjectSize", session, key) == CKR.OBJECT_HANDLE_INVALID
    assert application.rv("C_GetObjectSize", session, public) == CKR.OK
    application.call("C_Login", session, 1, None)
    assert len(found(application, session)) == 2  # the private session object was destroyed
    assert private not in found(application, session)
    assert bench.store.owners.keys() == {  # and nothing is owned that is not there
        named.real for named in application.connection.handles.objects.values() if named.handle == public
    }


@pytest.mark.parametrize(
    ("user", "pin", "rv"),
    [
        (0, None, CKR.USER_PIN_NOT_INITIALIZED),
        (0, b"12345678", CKR.USER_PIN_NOT_INITIALIZED),
        (2, None, CKR.OPERATION_NOT_INITIALIZED),
        (7, b"x", CKR.USER_TYPE_INVALID),
        (1, b"1234", CKR.PIN_INCORRECT),
        (1, b"", CKR.OK),
        (1, None, CKR.OK),
    ],
)
def test_who_logs_in_and_with_what(user: int, pin: bytes | None, rv: CKR, application: Application) -> None:
    session = application.session()
    assert application.rv("C_Login", session, user, pin) == rv
    assert application.call("C_GetSessionInfo", session)[1] == (3 if rv is CKR.OK else 2)


# --- small rules


@pytest.mark.parametrize("room", [0, 0xFFFFFFFF])
def test_no_random_bytes_are_no_error(room: int, bench: Bench, application: Application) -> None:
    """Room 0 is what clients 0.24 send for none, all ones what those from 0.25 on send."""
    session = application.session()
    assert application.call("C_GenerateRandom", session, room) == b""
    assert "C_GenerateRandom" not in bench.calls.made


def test_random_bytes_are_bounded(application: Application) -> None:
    session = application.session()
    assert len(application.call("C_GenerateRandom", session, 1 << 16)) == 1 << 16
    assert application.rv("C_GenerateRandom", session, (1 << 24) + 1) == CKR.ARGUMENTS_BAD


def test_a_session_without_the_serial_flag_is_refused(application: Application) -> None:
    assert application.rv("C_OpenSession", SLOT_ID, 2) == CKR.SESSION_PARALLEL_NOT_SUPPORTED


def test_only_the_flags_of_a_session_reach_the_module(application: Application) -> None:
    assert application.call("C_GetSessionInfo", application.session(flags=0xFFFFFFFF))[2] == 6


def test_pins_never_reach_the_module(bench: Bench, application: Application) -> None:
    """Its own are derived, and open the partition."""
    application.call("C_InitToken", SLOT_ID, b"so pin", b"label")
    session = application.session()
    application.call("C_Login", session, 0, b"so pin")
    application.call("C_InitPIN", session, b"1234")
    application.call("C_SetPIN", session, b"so pin", b"another")
    application.call("C_Logout", session)
    application.call("C_Login", session, 1, b"1234")
    assert not {"C_InitToken", "C_InitPIN", "C_SetPIN", "C_Login", "C_Logout"} & set(bench.calls.made)
