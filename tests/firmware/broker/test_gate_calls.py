"""Single calls at the door of a real gate: sizes, rooms, limits, and clients of other releases."""

from __future__ import annotations

from typing import Any

import pytest

from keyvisor_firmware.broker.mechanism_parameters import PARAMETERS
from keyvisor_hsm.cryptoki import CKA, CKM, CKR

from .conftest import CRYPTO, Guest, slot_of
from .encoder import CallFailed, Got, Mechanism, Needs, sized, u64
from .peer import RW, Peer

SLOT = slot_of(CRYPTO)


@pytest.fixture
def session(peer: Peer) -> int:
    return peer.session(SLOT, login=True)


# --- rooms


def test_a_size_query_does_not_end_the_operation(peer: Peer, session: int) -> None:
    key = peer.aes_key(session)
    peer.call("C_EncryptInit", session, Mechanism(CKM.AES_ECB), key)
    assert peer.call("C_Encrypt", session, bytes(32), 0) == Needs(32)
    assert peer.call("C_Encrypt", session, bytes(32), 31) == Needs(32)
    assert peer.call("C_Encrypt", session, bytes(32), 0xFFFFFFFF) == Needs(32)
    assert len(peer.call("C_Encrypt", session, bytes(32), 32)) == 32
    assert peer.rv("C_Encrypt", session, bytes(32), 32) == CKR.OPERATION_NOT_INITIALIZED


def test_lists_tell_how_much_room_they_need(peer: Peer) -> None:
    assert peer.call("C_GetSlotList", 0, 0) == Needs(3)
    assert peer.call("C_GetSlotList", 0, 2) == Needs(3)
    whole = peer.call("C_GetMechanismList", SLOT, 512)
    assert peer.call("C_GetMechanismList", SLOT, 0) == Needs(len(whole))
    assert peer.call("C_GetMechanismList", SLOT, len(whole) - 1) == Needs(len(whole))


def test_large_data_goes_through_whole(peer: Peer, session: int) -> None:
    key = peer.aes_key(session)
    data = bytes(range(256)) * (1 << 12)
    peer.call("C_EncryptInit", session, Mechanism(CKM.AES_ECB), key)
    sealed = peer.call("C_Encrypt", session, data, len(data))
    peer.call("C_DecryptInit", session, Mechanism(CKM.AES_ECB), key)
    assert peer.call("C_Decrypt", session, sealed, len(data)) == data


@pytest.mark.parametrize("room", [0, 0xFFFFFFFF])
def test_no_random_bytes_are_no_error(room: int, peer: Peer, session: int) -> None:
    assert peer.call("C_GenerateRandom", session, room) == b""


# --- attributes


def test_attributes_with_room_without_and_with_too_little(peer: Peer, session: int) -> None:
    key = peer.aes_key(session, label=b"label")
    asked = [
        (CKA.LABEL, 0),
        (CKA.LABEL, 5),
        (CKA.LABEL, 0xFFFF),
        (CKA.KEY_TYPE, 0),
        (CKA.KEY_TYPE, 8),
        (CKA.ENCRYPT, 1),
    ]
    answers, rv = peer.call("C_GetAttributeValue", session, key, asked)
    assert rv == CKR.OK
    assert answers == [
        Got(CKA.LABEL, 5, None),
        Got(CKA.LABEL, 5, b"label"),
        Got(CKA.LABEL, 5, b"label"),
        Got(CKA.KEY_TYPE, 8, 0),
        Got(CKA.KEY_TYPE, 8, 0x1F),
        Got(CKA.ENCRYPT, 1, True),
    ]


@pytest.mark.parametrize(
    ("asked", "rv"),
    [
        ((CKA.LABEL, 4), CKR.BUFFER_TOO_SMALL),
        ((CKA.VALUE, 64), CKR.ATTRIBUTE_SENSITIVE),
        ((CKA.MODULUS, 64), CKR.ATTRIBUTE_TYPE_INVALID),
        ((CKA.WRAP_TEMPLATE, 24), CKR.ATTRIBUTE_TYPE_INVALID),
        ((0xFFFFFFFF, 8), CKR.ATTRIBUTE_TYPE_INVALID),
    ],
)
def test_what_cannot_be_told_is_marked_beside_what_can(
    asked: tuple[int, int], rv: CKR, peer: Peer, session: int
) -> None:
    key = peer.aes_key(session, (CKA.SENSITIVE, True), (CKA.EXTRACTABLE, False), label=b"label")
    answers, got = peer.call("C_GetAttributeValue", session, key, [(CKA.ENCRYPT, 1), asked, (CKA.LABEL, 9)])
    assert got == rv
    assert answers == [Got(CKA.ENCRYPT, 1, True), Got(asked[0], None, None), Got(CKA.LABEL, 5, b"label")]


def test_a_request_for_no_attribute_is_refused(peer: Peer, session: int) -> None:
    assert peer.rv("C_GetAttributeValue", session, peer.aes_key(session), []) == CKR.ARGUMENTS_BAD


def test_a_session_or_object_that_is_not_there(peer: Peer, session: int) -> None:
    assert peer.rv("C_GetAttributeValue", session + 9, 1, [(CKA.LABEL, 9)]) == CKR.SESSION_HANDLE_INVALID
    for handle in (0, session, session + 9, 2**64 - 1):
        assert peer.rv("C_GetAttributeValue", session, handle, [(CKA.LABEL, 9)]) == CKR.OBJECT_HANDLE_INVALID


# --- searches


def test_a_search_is_answered_in_pieces(peer: Peer, session: int) -> None:
    made = [peer.aes_key(session, label=b"many") for _ in range(7)]
    peer.call("C_FindObjectsInit", session, [(CKA.LABEL, b"many")])
    pieces = [peer.call("C_FindObjects", session, 3) for _ in range(4)]
    assert [len(piece) for piece in pieces] == [3, 3, 1, 0]
    assert sorted(handle for piece in pieces for handle in piece) == sorted(made)
    peer.call("C_FindObjectsFinal", session)
    assert peer.rv("C_FindObjects", session, 3) == CKR.OPERATION_NOT_INITIALIZED


def test_others_objects_leave_no_gap_in_a_search(shared: Guest, peer: Peer, session: int) -> None:
    with Peer(shared.keeper.door) as other:
        theirs = other.session(SLOT, login=True)
        mine = []
        for _ in range(4):
            other.aes_key(theirs, label=b"mixed")
            mine.append(peer.aes_key(session, label=b"mixed"))
        peer.call("C_FindObjectsInit", session, [(CKA.LABEL, b"mixed")])
        assert sorted(peer.call("C_FindObjects", session, 4)) == mine


def test_an_object_has_one_number(peer: Peer, session: int) -> None:
    key = peer.aes_key(session, label=b"once")
    assert peer.find(session, (CKA.LABEL, b"once")) == peer.find(session, (CKA.LABEL, b"once")) == [key]


# --- keys


def test_a_pair_signs_and_verifies(peer: Peer, session: int) -> None:
    public, private = peer.ec_key_pair(session, token=False)
    signature = peer.sign(session, private)
    peer.call("C_VerifyInit", session, Mechanism(CKM.ECDSA), public)
    peer.call("C_Verify", session, bytes(32), signature)
    peer.call("C_VerifyInit", session, Mechanism(CKM.ECDSA), public)
    assert peer.rv("C_Verify", session, b"\1" * 32, signature) == CKR.SIGNATURE_INVALID


def test_wrapping_and_unwrapping(peer: Peer, session: int) -> None:
    wrapping = peer.aes_key(session, (CKA.WRAP, True), (CKA.UNWRAP, True))
    key = peer.clear_key(session, bytes(range(32)))
    wrapped = peer.call("C_WrapKey", session, Mechanism(CKM.AES_KEY_WRAP), wrapping, key, 512)
    template = [(CKA.CLASS, 4), (CKA.KEY_TYPE, 0x1F), (CKA.ENCRYPT, True), (CKA.TOKEN, False)]
    mechanism = Mechanism(CKM.AES_KEY_WRAP)
    again = peer.call("C_UnwrapKey", session, mechanism, wrapping, wrapped, template)
    assert peer.encrypt(session, again, bytes(16)) == peer.encrypt(session, key, bytes(16))
    for wrong, rv in (
        (wrapping + 99, CKR.WRAPPING_KEY_HANDLE_INVALID),
        (session, CKR.WRAPPING_KEY_HANDLE_INVALID),
    ):
        assert peer.rv("C_WrapKey", session, mechanism, wrong, key, 512) == rv
    assert peer.rv("C_WrapKey", session, mechanism, wrapping, key + 99, 512) == CKR.KEY_HANDLE_INVALID
    assert (
        peer.rv("C_UnwrapKey", session, mechanism, wrapping + 99, wrapped, template)
        == CKR.UNWRAPPING_KEY_HANDLE_INVALID
    )


def test_a_derived_key(peer: Peer, session: int) -> None:
    public, _ = peer.ec_key_pair(session, token=False)
    point = peer.attribute(session, public, CKA.EC_POINT)
    template = [(CKA.TOKEN, False), (CKA.PRIVATE, True), (CKA.DERIVE, True)]
    pairs = [(CKA.EC_PARAMS, bytes.fromhex("06082a8648ce3d030107"))]
    _, private = peer.call("C_GenerateKeyPair", session, Mechanism(CKM.EC_KEY_PAIR_GEN), pairs, template)
    parameter = u64(1) + sized(b"") + sized(point)
    made = [(CKA.CLASS, 4), (CKA.KEY_TYPE, 0x10), (CKA.VALUE_LEN, 32), (CKA.TOKEN, False), (CKA.SENSITIVE, False),
            (CKA.EXTRACTABLE, True)]  # fmt: skip
    key = peer.call("C_DeriveKey", session, Mechanism(CKM.ECDH1_DERIVE, parameter), private, made)
    assert len(peer.attribute(session, key, CKA.VALUE)) == 32


def test_a_copy(peer: Peer, session: int) -> None:
    key = peer.clear_key(session, bytes(16))
    copy = peer.call("C_CopyObject", session, key, [(CKA.LABEL, b"copy")])
    assert copy != key
    assert peer.attribute(session, copy, CKA.LABEL) == b"copy"


def test_no_mechanism_is_refused_and_the_connection_lives(peer: Peer, session: int) -> None:
    key = peer.aes_key(session)
    assert peer.rv("C_EncryptInit", session, None, key) == CKR.ARGUMENTS_BAD
    assert peer.rv("C_DigestInit", session, None) == CKR.ARGUMENTS_BAD
    assert len(peer.encrypt(session, key, bytes(16))) == 16


# --- clients from 0.25.6 on


def test_a_client_of_version_2_is_read_in_its_own_way(shared: Guest) -> None:
    with Peer(shared.keeper.door, version=2) as peer:
        assert peer.version == 2
        session = peer.session(SLOT, login=True)
        made = Mechanism(CKM.AES_KEY_GEN, bare=True)
        key = peer.call(
            "C_GenerateKey", session, made, [(CKA.VALUE_LEN, 32), (CKA.ENCRYPT, True), (CKA.DECRYPT, True)]
        )
        for type_, parameter in (
            (CKM.AES_CBC, sized(bytes(16))),
            (CKM.AES_CTR, u64(128) + sized(bytes(16))),
            (CKM.AES_GCM, sized(bytes(12)) + u64(96) + sized(b"aad") + u64(128)),
        ):
            mechanism = Mechanism(type_, b"\1" + parameter)
            peer.call("C_EncryptInit", session, mechanism, key)
            sealed = peer.call("C_Encrypt", session, b"sixteen bytes...", 64)
            peer.call("C_DecryptInit", session, mechanism, key)
            assert peer.call("C_Decrypt", session, sealed, 64) == b"sixteen bytes..."
        peer.call("C_EncryptInit", session, Mechanism(CKM.AES_ECB, bare=True), key)
        peer.call("C_Encrypt", session, bytes(16), 64)
        assert peer.rv("C_EncryptInit", session, Mechanism(CKM.AES_CBC, b"\0"), key) != CKR.OK
        unknown = Mechanism(CKM.AES_CCM, b"\1" + sized(bytes(32)))
        assert peer.rv("C_EncryptInit", session, unknown, key) == CKR.MECHANISM_PARAM_INVALID
        assert peer.rv("C_EncryptInit", session, None, key) == CKR.ARGUMENTS_BAD


@pytest.mark.parametrize("version", [0, 1, 3, 255])
def test_every_version_is_served(version: int, shared: Guest) -> None:
    with Peer(shared.keeper.door, version) as peer:
        assert peer.version == min(version, 2)
        assert peer.call("C_GetSlotList", 0, 8)


# --- hazards of the module (pkcs11-rpc, 12.3)


def gcm(iv: bytes | None, aad: bytes | None, tag_bits: int = 128, iv_bits: int = 96) -> Mechanism:
    return Mechanism(CKM.AES_GCM, sized(iv) + u64(iv_bits) + sized(aad) + u64(tag_bits))


@pytest.mark.parametrize(
    "mechanism",
    [
        gcm(None, b""),
        gcm(b"", b"aad"),
        gcm(bytes(12), None),
        gcm(b"\0", b""),
        gcm(bytes(4096), bytes(4096)),
        gcm(bytes(12), b"", 0),
        gcm(bytes(12), b"", 7),
        gcm(bytes(12), b"", 2**64 - 8),
        gcm(bytes(12), b"", 128, 2**64 - 1),
        Mechanism(CKM.AES_CTR, u64(0) + sized(bytes(16))),
        Mechanism(CKM.AES_CTR, u64(2**64 - 1) + sized(bytes(16))),
    ],
)
def test_hazard_12_3_no_parameter_ends_the_gate(mechanism: Mechanism, shared: Guest) -> None:
    gate = shared.running_gate()
    with Peer(shared.keeper.door) as peer:
        session = peer.session(SLOT, login=True)
        key = peer.aes_key(session)
        for begin, go in (("C_EncryptInit", "C_Encrypt"), ("C_DecryptInit", "C_Decrypt")):
            for data in (b"", b"x", bytes(64)):
                if peer.rv(begin, session, mechanism, key) == CKR.OK:
                    peer.rv(go, session, data, 256)
                session = peer.session(SLOT)
    assert shared.running_gate() == gate


def test_hazard_12_3_no_mechanism_without_its_parameter_ends_the_gate(shared: Guest) -> None:
    """Each of the module's mechanisms, with a NULL pointer and no length, wherever a mechanism goes."""
    gate = shared.running_gate()
    with Peer(shared.keeper.door, version=2) as peer:
        session = peer.session(SLOT, login=True)
        secret = peer.call(
            "C_GenerateKey",
            session,
            Mechanism(CKM.AES_KEY_GEN, bare=True),
            [(CKA.VALUE_LEN, 32), (CKA.ENCRYPT, True), (CKA.DECRYPT, True), (CKA.WRAP, True), (CKA.UNWRAP, True),
             (CKA.DERIVE, True), (CKA.SIGN, True), (CKA.VERIFY, True)],
        )  # fmt: skip
        made = [(CKA.CLASS, 4), (CKA.KEY_TYPE, 0x1F), (CKA.VALUE_LEN, 16)]
        for type_ in peer.call("C_GetMechanismList", SLOT, 512):
            mechanism = Mechanism(type_, b"\0") if type_ in PARAMETERS else Mechanism(type_, bare=True)
            calls: list[tuple[Any, ...]] = [
                *(
                    (f"C_{begin}Init", mechanism, secret)
                    for begin in ("Encrypt", "Decrypt", "Sign", "Verify")
                ),
                ("C_DigestInit", mechanism),
                ("C_DeriveKey", mechanism, secret, made),
                ("C_WrapKey", mechanism, secret, secret, 512),
                ("C_UnwrapKey", mechanism, secret, bytes(40), made),
                ("C_GenerateKey", mechanism, made),
            ]
            for name, *values in calls:
                of_its_own = peer.session(SLOT)
                peer.rv(name, of_its_own, *values)
                peer.call("C_CloseSession", of_its_own)
        assert len(peer.find(session)) == 1
    assert shared.running_gate() == gate


def test_what_the_broker_says_of_itself(peer: Peer, shared: Guest) -> None:
    cryptoki, maker, flags, description, _ = peer.call("C_GetInfo")
    assert (cryptoki, maker.strip(), flags) == ((2, 40), b"keyvisor", 0)
    assert description.strip() == f"keyvisor, {shared.keeper.guest}".encode()


def test_a_token_tells_its_hsm(peer: Peer) -> None:
    info = peer.call("C_GetTokenInfo", SLOT)
    assert [text.strip() for text in info[:4]] == [b"03.0011", b"keyvisor", b"CEX8 ep11", b"93AADFK719460083"]
    assert info[4] & 0x500 == 0x500  # initialised, and no PIN is typed in
    assert info[-3:-1] == ((8, 0), (8, 3))


def test_finalizing_ends_the_sessions_and_nothing_else(peer: Peer) -> None:
    session = peer.session(SLOT)
    peer.call("C_Finalize")
    assert peer.rv("C_GetSessionInfo", session) == CKR.SESSION_HANDLE_INVALID
    assert peer.call("C_OpenSession", SLOT, RW) > session


def test_a_session_is_closed_once(peer: Peer) -> None:
    session = peer.session(SLOT)
    peer.call("C_CloseSession", session)
    with pytest.raises(CallFailed, match="0xb3"):
        peer.call("C_CloseSession", session)
