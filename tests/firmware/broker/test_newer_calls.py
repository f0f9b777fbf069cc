"""The calls of protocol versions 1 and 2, with a module that has PKCS#11 3.0 and with one that has not."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from keyvisor_firmware.broker.calls import CALLS, Call
from keyvisor_firmware.broker.hot.loop import HotLoop
from keyvisor_firmware.broker.key_store import KeyStore
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki import CKA, CKM, CKR, FUNCTIONS, FUNCTIONS_3_0

from .conftest import CRYPTO, Guest, slot_of
from .encoder import CallFailed, Mechanism, Needs, sized, u64
from .in_process import SLOT_ID, Application, Bench, NoModule
from .peer import Peer
from .sample_calls import arguments

SLOT = slot_of(CRYPTO)
_MESSAGES = [call for call in CALLS if 68 <= call.id <= 87]


class Recorder(dict[str, Callable[..., int]]):
    """A module whose functions answer CKR_OK, and note their arguments."""

    def __init__(self, *lists: tuple[tuple[str, int], ...]) -> None:
        super().__init__({name: self._function(name, count) for one in lists for name, count in one})
        self.made: list[tuple[str, tuple[int, ...]]] = []

    def _function(self, name: str, count: int) -> Callable[..., int]:
        def noted(*given: int) -> int:
            assert len(given) == count, name
            self.made.append((name, given))
            if name == "C_OpenSession":
                ctypes.c_ulong.from_address(given[-1]).value = 77
            return 0

        return noted

    def last(self) -> tuple[str, tuple[int, ...]]:
        return self.made[-1]


def application_of(path: HotLoop | None, *lists: tuple[tuple[str, int], ...]) -> tuple[Application, Recorder]:
    store = KeyStore(NoModule())  # type: ignore[arg-type]  # stands in for a partition
    recorder = Recorder(*lists)
    store.call = recorder
    bench = Bench(store, compiled=path)
    bench.grant(HsmState.ASSOCIATED)
    return bench.connect(), recorder


@pytest.fixture
def three(path: HotLoop | None) -> tuple[Application, Recorder]:
    """An application in front of a module of PKCS#11 3.0."""
    return application_of(path, FUNCTIONS, FUNCTIONS_3_0)


@pytest.fixture
def peer2(shared: Guest) -> Iterator[Peer]:
    with Peer(shared.keeper.door, 2) as peer:
        yield peer


def values_for(call: Call, session: int) -> tuple[Any, ...]:
    values = arguments(call, session, SLOT_ID)
    return tuple(None if call.name.endswith("Init") and isinstance(one, Mechanism) else one for one in values)


@pytest.mark.parametrize("call", _MESSAGES, ids=lambda call: call.name)
def test_a_message_call_reaches_a_module_that_has_it(call: Call, three: tuple[Application, Recorder]) -> None:
    application, recorder = three
    session = application.session()
    assert application.rv(call.name, *values_for(call, session)) == CKR.OK
    name, given = recorder.last()
    assert (name, given[0], len(given)) == (call.name, 77, dict(FUNCTIONS_3_0)[call.name])


@pytest.mark.parametrize("call", _MESSAGES, ids=lambda call: call.name)
def test_a_message_call_is_not_supported_where_the_module_has_none(call: Call, path: HotLoop | None) -> None:
    application, _ = application_of(path, FUNCTIONS)
    values = values_for(call, application.session())
    expected = CKR.ARGUMENTS_BAD if call.name.endswith("Init") else CKR.FUNCTION_NOT_SUPPORTED
    assert application.rv(call.name, *values) == expected


@pytest.mark.parametrize(
    "call",
    [call for call in _MESSAGES if "parameter of a message" in [r.value for r in call.roles]],
    ids=lambda c: c.name,
)
def test_a_messages_parameter_is_never_taken_for_a_structure(
    call: Call, three: tuple[Application, Recorder]
) -> None:
    """CK_GCM_MESSAGE_PARAMS has pointers: the bytes that travel hold the client's."""
    application, recorder = three
    values = list(arguments(call, application.session(), SLOT_ID))
    values[1] = bytes(range(48))
    assert application.rv(call.name, *values) == CKR.MECHANISM_PARAM_INVALID
    assert all(name == "C_OpenSession" for name, _ in recorder.made)


def test_a_signature_that_is_not_wanted_has_no_room(three: tuple[Application, Recorder]) -> None:
    application, recorder = three
    session = application.session()
    assert application.call("C_SignMessageNext", session, None, b"part", 0, 0) == b""
    assert recorder.last()[1][-2:] == (0, 0)
    assert application.call("C_SignMessageNext", session, None, b"part", 1, 0) == Needs(0)
    assert recorder.last()[1][-1] != 0


def test_the_flags_of_a_part_stand_behind_its_room(three: tuple[Application, Recorder]) -> None:
    application, recorder = three
    application.call("C_EncryptMessageNext", application.session(), None, b"part", 64, 5)
    assert recorder.last()[1][-1] == 5


def test_rule_7_a_null_mechanism_cancels_where_the_module_knows_it(
    three: tuple[Application, Recorder],
) -> None:
    application, recorder = three
    session = application.session()
    for call in CALLS:
        if call.name.endswith("Init") and "M" in call.request:
            key = () if call.request == "uM" else (0,)
            assert application.rv(call.name, session, None, *key) == CKR.OK, call.name
            assert recorder.last() == (call.name, (77, 0, *key))
    assert application.rv("C_GenerateKey", session, None, []) == CKR.ARGUMENTS_BAD
    assert "C_GenerateKey" not in [name for name, _ in recorder.made]
    assert not application.connection.handles.session(session).ticket.began


def test_rule_7_a_null_mechanism_is_an_error_to_an_older_module(path: HotLoop | None) -> None:
    application, recorder = application_of(path, FUNCTIONS)
    session = application.session()
    for name in ("C_DigestInit", "C_EncryptInit", "C_SignInit"):
        key = () if name == "C_DigestInit" else (0,)
        assert application.rv(name, session, None, *key) in (CKR.ARGUMENTS_BAD, CKR.KEY_HANDLE_INVALID)
        assert recorder.last()[0] == "C_OpenSession"


def test_a_session_is_cancelled_by_the_module(
    three: tuple[Application, Recorder], path: HotLoop | None
) -> None:
    application, recorder = three
    application.call("C_SessionCancel", application.session(), 0x100)
    assert recorder.last() == ("C_SessionCancel", (77, 0x100))
    older, _ = application_of(path, FUNCTIONS)
    assert older.rv("C_SessionCancel", older.session(), 0x100) == CKR.FUNCTION_NOT_SUPPORTED


# --- the real module, a client of 0.25.6


def test_c_login_user_is_c_login(peer2: Peer) -> None:
    session = peer2.session(SLOT)
    assert peer2.rv("C_LoginUser", session, 1, None, b"root") == CKR.USER_TYPE_INVALID
    peer2.call("C_LoginUser", session, 1, None, None)
    assert peer2.rv("C_LoginUser", session, 1, None, None) == CKR.USER_ALREADY_LOGGED_IN
    peer2.call("C_Logout", session)


def test_c_init_token_2_is_c_init_token(peer2: Peer) -> None:
    peer2.session(SLOT)
    label = b"label".ljust(32)
    assert peer2.rv("C_InitToken2", SLOT, b"1234", label) == peer2.rv("C_InitToken", SLOT, b"1234", label)


def aes_key(peer: Peer, session: int) -> int:
    template = [(CKA.VALUE_LEN, 32), (CKA.DERIVE, True), (CKA.ENCRYPT, True)]
    key = peer.call("C_GenerateKey", session, Mechanism(CKM.AES_KEY_GEN, bare=True), template)
    assert isinstance(key, int)
    return key


def test_c_derive_key_2_tells_rv_parameter_and_key(peer2: Peer) -> None:
    session = peer2.session(SLOT, login=True)
    curve = [(CKA.EC_PARAMS, bytes.fromhex("06082a8648ce3d030107"))]
    generate = Mechanism(CKM.EC_KEY_PAIR_GEN, bare=True)
    public, private = peer2.call("C_GenerateKeyPair", session, generate, curve, [(CKA.DERIVE, True)])
    point = peer2.attribute(session, public, CKA.EC_POINT)
    derive = Mechanism(CKM.ECDH1_DERIVE, b"\1" + u64(1) + sized(b"") + sized(point))
    template = [
        (CKA.CLASS, 4),
        (CKA.KEY_TYPE, 0x10),
        (CKA.VALUE_LEN, 32),
        (CKA.SENSITIVE, False),
        (CKA.EXTRACTABLE, True),
    ]
    rv, updated, key = peer2.call("C_DeriveKey2", session, derive, private, template)
    assert (rv, updated) == (CKR.OK, None)
    assert len(peer2.attribute(session, key, CKA.VALUE)) == 32
    for bad in (0, 12345):
        with pytest.raises(CallFailed):
            peer2.call("C_DeriveKey2", session, derive, bad, template)


def test_no_message_call_is_supported_by_softhsm(peer2: Peer) -> None:
    session = peer2.session(SLOT, login=True)
    for call in _MESSAGES:
        values = [
            Mechanism(CKM.AES_ECB, bare=True) if isinstance(one, Mechanism) else one
            for one in arguments(call, session, SLOT, aes_key(peer2, session))
        ]
        assert peer2.rv(call.name, *values) == CKR.FUNCTION_NOT_SUPPORTED, call.name
    assert peer2.rv("C_SessionCancel", session, 1) == CKR.FUNCTION_NOT_SUPPORTED


@pytest.mark.parametrize("parameter", [b"", b"\0", b"\1" + sized(b"unread"), b"\1" + u64(7), b"\1" + b"\0"])
def test_an_unknown_mechanism_does_not_cost_the_connection(parameter: bytes, peer2: Peer) -> None:
    session = peer2.session(SLOT, login=True)
    key = aes_key(peer2, session)
    for type_ in (0x80001234, CKM.IBM_KYBER, CKM.IBM_BTC_DERIVE, CKM.IBM_ATTRIBUTEBOUND_WRAP, CKM.AES_CCM):
        unknown = Mechanism(type_, parameter)
        for name, values in (("C_EncryptInit", (unknown, key)), ("C_DeriveKey", (unknown, key, []))):
            assert peer2.rv(name, session, *values) in (CKR.MECHANISM_INVALID, CKR.MECHANISM_PARAM_INVALID)
    assert peer2.call("C_GetSlotList", 0, 8)
