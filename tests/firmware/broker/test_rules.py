"""Each rule of the reference with a test (pkcs11-rpc, sections 4, 6 and 12.3), against the real module."""

from __future__ import annotations

import pytest

from keyvisor_firmware.broker.codec import read_request
from keyvisor_firmware.broker.errors import ProtocolError
from keyvisor_firmware.broker.mechanism_parameters import Encoding
from keyvisor_hsm.cryptoki import CKA, CKM, CKR

from .conftest import CRYPTO, Guest, slot_of
from .encoder import NULL, CallFailed, Got, Mechanism, Needs, body, read_reply, sized, u32, u64
from .peer import Peer

SLOT = slot_of(CRYPTO)
ALL_ONES = 2**64 - 1
OLD = Encoding.UP_TO_0_25_5


@pytest.fixture
def session(peer: Peer) -> int:
    return peer.session(SLOT, login=True)


# --- 4.1


def test_rule_4_1_an_attribute_without_value_is_a_null_pointer_of_no_length(peer: Peer, session: int) -> None:
    """ulValueLen = -1 would be believed by the module: it never gets one."""
    for name, values in (
        ("C_CreateObject", ([(CKA.CLASS, 0), (CKA.VALUE, None)],)),
        ("C_FindObjectsInit", ([(CKA.LABEL, None)],)),
    ):
        peer.rv(name, session, *values)
    assert peer.call("C_GetSlotList", 0, 8)


def test_rule_4_1_destroyable_travels_as_bytes(peer: Peer, session: int) -> None:
    key = peer.clear_key(session, bytes(16))
    answers, _ = peer.call("C_GetAttributeValue", session, key, [(CKA.DESTROYABLE, 1)])
    assert answers[0].value in (b"\1", None)


def test_rule_4_1_a_number_that_nobody_knows_is_all_ones(peer: Peer, session: int) -> None:
    """CK_UNAVAILABLE_INFORMATION as a value: a key that was not generated has no mechanism."""
    key = peer.clear_key(session, bytes(16))
    assert peer.attribute(session, key, CKA.KEY_GEN_MECHANISM) == ALL_ONES


def test_rule_4_1_a_size_that_nobody_knows_is_all_ones(peer: Peer, session: int) -> None:
    key = peer.clear_key(session, bytes(16))
    assert peer.call("C_GetObjectSize", session, key) == ALL_ONES


# --- 4.3


def test_rule_4_3_no_room_is_told_the_length_and_a_placeholder(peer: Peer, session: int) -> None:
    key = peer.clear_key(session, bytes(24), (CKA.LABEL, b"label"))
    wanted = [(CKA.LABEL, 0), (CKA.KEY_TYPE, 0), (CKA.SENSITIVE, 0), (CKA.VALUE, 0)]
    answers, rv = peer.call("C_GetAttributeValue", session, key, wanted)
    assert rv == CKR.OK
    assert answers == [
        Got(CKA.LABEL, 5, None),
        Got(CKA.KEY_TYPE, 8, 0),
        Got(CKA.SENSITIVE, 1, False),
        Got(CKA.VALUE, 24, None),
    ]


def test_rule_4_3_the_length_is_exact_whatever_the_room(peer: Peer, session: int) -> None:
    """p11-kit #679: newer clients take it for the value's."""
    key = peer.clear_key(session, bytes(24), (CKA.LABEL, b"label"))
    answers, rv = peer.call("C_GetAttributeValue", session, key, [(CKA.LABEL, 500), (CKA.KEY_TYPE, 500)])
    assert (rv, answers) == (CKR.OK, [Got(CKA.LABEL, 5, b"label"), Got(CKA.KEY_TYPE, 8, 0x1F)])


def test_rule_4_3_order_and_number_are_the_questions(peer: Peer, session: int) -> None:
    key = peer.clear_key(session, bytes(16))
    types = [CKA.VALUE, CKA.LABEL, CKA.MODULUS, CKA.LABEL, CKA.VALUE]
    answers, rv = peer.call("C_GetAttributeValue", session, key, [(type_, 64) for type_ in types])
    assert [got.type for got in answers] == types
    assert rv == CKR.ATTRIBUTE_TYPE_INVALID


# --- 4.4


def test_rule_4_4_a_size_query_keeps_the_operation(peer: Peer, session: int) -> None:
    key = peer.clear_key(session, bytes(16))
    peer.call("C_EncryptInit", session, Mechanism(CKM.AES_ECB), key)
    assert peer.call("C_Encrypt", session, bytes(32), 0) == Needs(32)
    assert len(peer.call("C_Encrypt", session, bytes(32), 32)) == 32


@pytest.mark.parametrize("room", [1, 31, NULL])
def test_rule_4_4_too_little_room_keeps_the_operation(room: int, peer: Peer, session: int) -> None:
    key = peer.clear_key(session, bytes(16))
    peer.call("C_EncryptInit", session, Mechanism(CKM.AES_ECB), key)
    assert peer.call("C_Encrypt", session, bytes(32), room) == Needs(32)
    assert len(peer.call("C_Encrypt", session, bytes(32), 32)) == 32


def test_rule_4_4_a_null_array_in_the_middle_is_read_with_its_length(peer: Peer, session: int) -> None:
    """The old PIN of C_SetPIN, the PIN of C_InitToken, C_Digest with NULL data: what stands behind is not misread."""
    for name, values in (
        ("C_SetPIN", (session, None, b"12345678")),
        ("C_InitToken", (SLOT, None, b"label")),
    ):
        _, got = read_request(body(name, *values), OLD)
        assert got[1] is None
    call, got = read_request(body("C_Digest", session, None, 77), OLD)
    assert got == (session, None, 77)
    assert call.name == "C_Digest"


def test_rule_4_4_digesting_null_is_the_modules_to_judge(peer: Peer, session: int) -> None:
    peer.call("C_DigestInit", session, Mechanism(CKM.SHA256))
    assert peer.rv("C_Digest", session, None, 64) in (CKR.OK, CKR.ARGUMENTS_BAD)
    assert peer.call("C_GetSlotList", 0, 8)


# --- 5


def test_rule_5_an_error_is_an_id_of_0_and_a_number(peer: Peer) -> None:
    reply = peer.exchange(body("C_CloseSession", 999))
    assert reply == u32(0) + sized(b"u") + u64(CKR.SESSION_HANDLE_INVALID)
    with pytest.raises(CallFailed):
        read_reply("C_CloseSession", reply)


# --- 6


def test_rule_6_a_label_with_garbage_behind_it_is_cut_and_padded() -> None:
    """The 0.24.1 client runs past the 32 bytes, which have no NUL."""
    label = b"a label".ljust(32)
    for sent in (label, label + b"garbage of the stack", b"a label"):
        assert read_request(body("C_InitToken", SLOT, b"1234", sent), OLD)[1][2] == label


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_rule_6_a_label_of_c_init_token_2_has_32_bytes(length: int) -> None:
    with pytest.raises(ProtocolError, match=f"{length} bytes instead of 32"):
        read_request(body("C_InitToken2", SLOT, b"1234", bytes(length)), OLD)


def test_rule_6_a_signature_over_nothing(peer: Peer, session: int) -> None:
    """C_SignUpdate of length 0 comes from 0.25.0 on, and must not end the operation."""
    secret = [
        *((CKA.CLASS, 4), (CKA.KEY_TYPE, 0x10), (CKA.VALUE, bytes(32)), (CKA.PRIVATE, False)),
        *((CKA.TOKEN, False), (CKA.SIGN, True)),
    ]
    key = peer.call("C_CreateObject", session, secret)
    macs = []
    for parts in ((b"", b"data", b""), (b"data",)):
        peer.call("C_SignInit", session, Mechanism(CKM.SHA256_HMAC), key)
        for part in parts:
            peer.call("C_SignUpdate", session, part)
        macs.append(peer.call("C_SignFinal", session, 64))
    assert macs[0] == macs[1]


@pytest.mark.parametrize(("call", "values"), [("C_GetSlotList", (0,)), ("C_GetMechanismList", (SLOT,))])
def test_rule_6_a_list_says_how_many_where_there_is_no_room(
    call: str, values: tuple[int, ...], peer: Peer
) -> None:
    needs = peer.call(call, *values, 0)
    assert isinstance(needs, Needs)
    assert len(peer.call(call, *values, needs.size)) == needs.size
    assert peer.call(call, *values, needs.size - 1) == needs


# --- 12.3


def gcm(iv: bytes, aad: bytes) -> bytes:
    """The parameter, with IV and AAD as they travel."""
    return iv + u64(96) + aad + u64(128)


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("iv", [u32(NULL), u32(0)])
def test_hazard_12_3_an_iv_that_is_a_null_pointer_is_refused_and_the_gate_lives(
    iv: bytes, version: int, shared: Guest
) -> None:
    gate = shared.running_gate()
    with Peer(shared.keeper.door, version) as peer:
        session = peer.session(SLOT, login=True)
        key = peer.clear_key(session, bytes(16))
        present = b"\1" if version == 2 else b""
        for name in ("C_EncryptInit", "C_DecryptInit"):
            refused = Mechanism(CKM.AES_GCM, present + gcm(iv, sized(b"aad")))
            assert peer.rv(name, session, refused, key) == CKR.MECHANISM_PARAM_INVALID
        assert shared.running_gate() == gate
        # An AAD that is a NULL pointer travels without its length: to the module it is a NULL pointer of length 0.
        taken = Mechanism(CKM.AES_GCM, present + gcm(sized(bytes(12)), u32(NULL)))
        peer.call("C_EncryptInit", session, taken, key)
        without = peer.call("C_Encrypt", session, b"data", 64)
        peer.call(
            "C_EncryptInit", session, Mechanism(CKM.AES_GCM, present + gcm(sized(bytes(12)), sized(b""))), key
        )
        assert peer.call("C_Encrypt", session, b"data", 64) == without
    assert shared.running_gate() == gate


@pytest.mark.parametrize("cut", [gcm(u32(12), b""), gcm(sized(bytes(12)), u32(0xFFFF)), u32(48) + bytes(48)])
def test_hazard_12_3_lengths_without_their_bytes_end_the_connection_and_nothing_else(
    cut: bytes, shared: Guest
) -> None:
    gate = shared.running_gate()
    with Peer(shared.keeper.door) as peer:
        session = peer.session(SLOT, login=True)
        key = peer.clear_key(session, bytes(16))
        peer.send(body("C_EncryptInit", session, Mechanism(CKM.AES_GCM, cut), key))
        assert peer.ended()
    assert shared.running_gate() == gate
