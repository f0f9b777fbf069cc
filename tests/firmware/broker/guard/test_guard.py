"""The guard at the doors of real gates, on both paths: what a key once did decides what it can ever do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from keyvisor_firmware.broker.guard.wrapped_keys import NAME
from keyvisor_hsm.cryptoki import CKA, CKM, CKR

from ..conftest import ACCELERATOR, CRYPTO, Guest, Machine, slot_of, wait_for
from ..encoder import CallFailed, Mechanism
from ..peer import CKK_AES, CKO_SECRET_KEY, Peer

BOTH = (
    (CKA.ENCRYPT, True),
    (CKA.DECRYPT, True),
    (CKA.WRAP, True),
    (CKA.UNWRAP, True),
    (CKA.EXTRACTABLE, True),
)
KEK = ((CKA.ENCRYPT, False), (CKA.DECRYPT, False), (CKA.WRAP, True), (CKA.UNWRAP, True))
SECRET = ((CKA.SENSITIVE, True), (CKA.EXTRACTABLE, True), (CKA.WRAP, False), (CKA.UNWRAP, False))
AES = [(CKA.CLASS, CKO_SECRET_KEY), (CKA.KEY_TYPE, CKK_AES)]
KW, ECB = Mechanism(CKM.AES_KEY_WRAP), Mechanism(CKM.AES_ECB)
RSA_PUBLIC = [(CKA.MODULUS_BITS, 2048), (CKA.PUBLIC_EXPONENT, b"\1\0\1")]


@pytest.fixture
def session(peer: Peer) -> int:
    return peer.session(slot_of(CRYPTO), login=True)


def aes(peer: Peer, session: int, *template: tuple[int, Any], label: bytes = b"k") -> int:
    """An AES key with the template's powers alone; without any it is for data."""
    powers = {CKA.ENCRYPT: True, CKA.DECRYPT: True}
    attributes = {CKA.LABEL: label, CKA.VALUE_LEN: 32, **powers, **dict(template)}
    handle: int = peer.call("C_GenerateKey", session, Mechanism(CKM.AES_KEY_GEN), list(attributes.items()))
    return handle


def wrap(peer: Peer, session: int, by: int, key: int) -> bytes:
    blob: bytes = peer.call("C_WrapKey", session, KW, by, key, 4096)
    return blob


def unwrap(peer: Peer, session: int, by: int, blob: bytes, *more: tuple[int, Any]) -> int:
    handle: int = peer.call("C_UnwrapKey", session, KW, by, blob, [*AES, *more])
    return handle


def refused(rv: CKR, do: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises(CallFailed) as failed:
        do(*arguments)
    assert failed.value.rv == rv


def rsa_pair(peer: Peer, session: int, public: list[Any], private: list[Any]) -> tuple[int, int]:
    pair: tuple[int, int] = peer.call(
        "C_GenerateKeyPair", session, Mechanism(CKM.RSA_PKCS_KEY_PAIR_GEN), [*RSA_PUBLIC, *public], private
    )
    return pair


# --- one key, one side


def test_a_key_that_wrapped_never_decrypts(peer: Peer, session: int) -> None:
    key, secret = aes(peer, session, *BOTH), aes(peer, session, *SECRET)
    blob = wrap(peer, session, key, secret)
    for name in ("C_DecryptInit", "C_EncryptInit"):
        assert peer.rv(name, session, ECB, key) == CKR.KEY_FUNCTION_NOT_PERMITTED
    assert not peer.attribute(session, key, CKA.DECRYPT)
    assert unwrap(peer, session, key, blob)  # and goes on as a wrapping key


@pytest.mark.parametrize("first", ["C_DecryptInit", "C_EncryptInit"])
def test_a_key_that_worked_on_data_never_wraps(peer: Peer, session: int, first: str) -> None:
    key, secret = aes(peer, session, *BOTH), aes(peer, session, *SECRET)
    peer.call(first, session, ECB, key)
    peer.call(first[:-4], session, bytes(16), 64)
    refused(CKR.KEY_FUNCTION_NOT_PERMITTED, wrap, peer, session, key, secret)
    refused(CKR.KEY_FUNCTION_NOT_PERMITTED, unwrap, peer, session, key, bytes(24))
    for _ in range(3):  # the hot loop replays it from its memo
        assert len(peer.encrypt(session, key, bytes(16))) == 16


def test_an_init_that_the_hot_loop_remembers_stops_with_the_power(peer: Peer, session: int) -> None:
    """What is remembered goes to the module, and the module looks at the attribute each time."""
    key = aes(peer, session, *BOTH)
    for _ in range(3):
        peer.encrypt(session, key, bytes(16))
    peer.call("C_SetAttributeValue", session, key, [(CKA.ENCRYPT, False)])
    for _ in range(3):
        assert peer.rv("C_EncryptInit", session, ECB, key) == CKR.KEY_FUNCTION_NOT_PERMITTED


@pytest.mark.parametrize("power", [CKA.ENCRYPT, CKA.DECRYPT, CKA.WRAP, CKA.UNWRAP])
def test_a_power_never_comes_back(peer: Peer, session: int, power: CKA) -> None:
    key = aes(peer, session, *(one for one in BOTH if one[0] != power), (power, False))
    for name in ("C_SetAttributeValue", "C_CopyObject"):
        assert peer.rv(name, session, key, [(power, True)]) == CKR.TEMPLATE_INCONSISTENT
    assert not peer.attribute(session, key, power)


@pytest.mark.parametrize(
    ("born", "asked"),
    [
        ([(CKA.SENSITIVE, True)], [(CKA.SENSITIVE, False)]),
        ([(CKA.EXTRACTABLE, False)], [(CKA.EXTRACTABLE, True)]),
        ([(CKA.WRAP_WITH_TRUSTED, True)], [(CKA.WRAP_WITH_TRUSTED, False)]),
        ([], [(CKA.TRUSTED, True)]),
    ],
)
def test_protection_only_tightens(peer: Peer, session: int, born: list[Any], asked: list[Any]) -> None:
    key = aes(peer, session, *born)
    for name in ("C_SetAttributeValue", "C_CopyObject"):
        assert peer.rv(name, session, key, asked) == CKR.TEMPLATE_INCONSISTENT


def test_a_copy_goes_the_way_of_its_original(peer: Peer, session: int) -> None:
    key, secret = aes(peer, session, *BOTH), aes(peer, session, *SECRET)
    copy = peer.call("C_CopyObject", session, key, [(CKA.LABEL, b"copy")])
    for one in (key, copy):
        refused(CKR.KEY_FUNCTION_NOT_PERMITTED, wrap, peer, session, one, secret)
        assert len(peer.encrypt(session, one, bytes(16))) == 16


def test_a_wrapped_key_is_for_data_and_so_is_what_comes_back(peer: Peer, session: int) -> None:
    kek, key = aes(peer, session, *KEK), aes(peer, session, *BOTH)
    blob = wrap(peer, session, kek, key)
    refused(CKR.KEY_FUNCTION_NOT_PERMITTED, wrap, peer, session, key, aes(peer, session, *SECRET))
    refused(CKR.TEMPLATE_INCONSISTENT, unwrap, peer, session, kek, blob, (CKA.UNWRAP, True))
    again = unwrap(peer, session, kek, blob, *BOTH[:4])  # as client libraries ask
    assert not peer.attribute(session, again, CKA.WRAP)
    assert not peer.attribute(session, again, CKA.UNWRAP)
    assert peer.encrypt(session, again, bytes(16)) == peer.encrypt(session, key, bytes(16))


def test_a_wrapping_key_comes_back_as_one(peer: Peer, session: int) -> None:
    kek, inner = aes(peer, session, *KEK), aes(peer, session, *KEK, (CKA.EXTRACTABLE, True))
    secret = wrap(peer, session, inner, aes(peer, session, *SECRET))
    blob = wrap(peer, session, kek, inner)
    refused(CKR.TEMPLATE_INCONSISTENT, unwrap, peer, session, kek, blob, (CKA.DECRYPT, True))
    again = unwrap(peer, session, kek, blob)
    assert peer.rv("C_DecryptInit", session, ECB, again) == CKR.KEY_FUNCTION_NOT_PERMITTED
    assert not peer.attribute(session, again, CKA.WRAP)
    assert unwrap(peer, session, again, secret)


# --- RSA pairs


def test_the_halves_of_a_pair_share_their_fate(peer: Peer, session: int) -> None:
    secret, oaep = aes(peer, session, *SECRET), Mechanism(CKM.RSA_PKCS)
    public, private = rsa_pair(peer, session, [], [(CKA.DECRYPT, True), (CKA.UNWRAP, True), (CKA.SIGN, True)])
    blob = peer.call("C_WrapKey", session, oaep, public, secret, 4096)
    assert peer.rv("C_DecryptInit", session, oaep, private) == CKR.KEY_FUNCTION_NOT_PERMITTED
    raw = Mechanism(CKM.RSA_X_509)
    assert peer.rv("C_SignInit", session, raw, private) == CKR.KEY_FUNCTION_NOT_PERMITTED
    assert (
        peer.rv("C_SetAttributeValue", session, private, [(CKA.UNWRAP, False)]) == CKR.TEMPLATE_INCONSISTENT
    )
    assert peer.rv("C_CopyObject", session, private, [(CKA.UNWRAP, False)]) == CKR.TEMPLATE_INCONSISTENT
    assert peer.call("C_UnwrapKey", session, oaep, private, blob, AES)


def test_a_pair_whose_private_half_decrypted_never_wraps(peer: Peer, session: int) -> None:
    secret, raw = aes(peer, session, *SECRET), Mechanism(CKM.RSA_X_509)
    for begin in ("C_DecryptInit", "C_SignInit"):
        public, private = rsa_pair(peer, session, [], [(CKA.SIGN, True)])
        peer.call(begin, session, raw, private)
        peer.call(begin[:-4], session, bytes(255) + b"\2", 512)
        rv = peer.rv("C_WrapKey", session, Mechanism(CKM.RSA_PKCS), public, secret, 4096)
        assert rv == CKR.KEY_FUNCTION_NOT_PERMITTED, begin


def test_a_public_key_without_its_private_half_does_not_wrap(peer: Peer, session: int) -> None:
    public, private = rsa_pair(peer, session, [], [])
    peer.call("C_DestroyObject", session, private)
    secret = aes(peer, session, *SECRET)
    rv = peer.rv("C_WrapKey", session, Mechanism(CKM.RSA_PKCS), public, secret, 4096)
    assert rv == CKR.KEY_FUNCTION_NOT_PERMITTED


def test_a_made_up_private_half_does_not_stand_for_the_real_one(peer: Peer, session: int) -> None:
    """Elsewhere, in a session of another gate, the real half may be one that decrypts."""
    public, private = rsa_pair(peer, session, [], [])
    modulus = peer.attribute(session, public, CKA.MODULUS)
    peer.call("C_DestroyObject", session, private)
    made_up = [
        *((CKA.CLASS, 3), (CKA.KEY_TYPE, 0), (CKA.MODULUS, modulus), (CKA.PUBLIC_EXPONENT, b"\1\0\1")),
        *((part, b"\3") for part in (CKA.PRIVATE_EXPONENT, CKA.PRIME_1, CKA.PRIME_2)),
        *((CKA.UNWRAP, True), (CKA.DECRYPT, False)),
    ]
    assert peer.call("C_CreateObject", session, made_up)
    secret = aes(peer, session, *SECRET)
    rv = peer.rv("C_WrapKey", session, Mechanism(CKM.RSA_PKCS), public, secret, 4096)
    assert rv == CKR.KEY_FUNCTION_NOT_PERMITTED


# --- where a key came from


def test_a_known_key_never_wraps(peer: Peer, session: int) -> None:
    secret = aes(peer, session, *SECRET)
    with pytest.raises(CallFailed):
        peer.clear_key(session, b"k" * 16, (CKA.WRAP, True), (CKA.ENCRYPT, False), (CKA.DECRYPT, False))
    key = peer.clear_key(session, b"k" * 16, (CKA.WRAP, True))
    assert not peer.attribute(session, key, CKA.WRAP)
    refused(CKR.KEY_FUNCTION_NOT_PERMITTED, wrap, peer, session, key, secret)


def test_a_blob_from_elsewhere_is_taken_with_the_safest_attributes(peer: Peer, session: int) -> None:
    kek, known = aes(peer, session, *KEK), aes(peer, session, *SECRET)
    blob = wrap(peer, session, kek, known)
    other = aes(peer, session, *KEK)
    forged = bytes((blob[0] ^ 1,)) + blob[1:]
    assert peer.rv("C_UnwrapKey", session, KW, kek, forged, AES) != 0  # AES-KW notices
    assert peer.rv("C_UnwrapKey", session, KW, other, blob, AES) != 0
    for asked in ((CKA.SENSITIVE, False), (CKA.EXTRACTABLE, True), (CKA.UNWRAP, True)):
        rv = peer.rv("C_UnwrapKey", session, KW, kek, forged, [*AES, asked])
        assert rv == CKR.TEMPLATE_INCONSISTENT


def test_padding_says_nothing_of_blobs_from_elsewhere(peer: Peer, session: int) -> None:
    _, private = rsa_pair(peer, session, [], [])
    for blob in (bytes(256), b"\1" * 256):
        rv = peer.rv("C_UnwrapKey", session, Mechanism(CKM.RSA_PKCS), private, blob, AES)
        assert rv == CKR.WRAPPED_KEY_INVALID


def test_a_key_comes_back_as_what_it_was(peer: Peer, session: int) -> None:
    kek = aes(peer, session, *KEK)
    blob = wrap(peer, session, kek, aes(peer, session, *SECRET, (CKA.WRAP_WITH_TRUSTED, False)))
    generic = [(CKA.CLASS, CKO_SECRET_KEY), (CKA.KEY_TYPE, 0x10)]
    assert peer.rv("C_UnwrapKey", session, KW, kek, blob, generic) == CKR.TEMPLATE_INCONSISTENT
    refused(CKR.TEMPLATE_INCONSISTENT, unwrap, peer, session, kek, blob, (CKA.SENSITIVE, False))
    assert peer.attribute(session, unwrap(peer, session, kek, blob), CKA.SENSITIVE)


def test_wrap_with_trusted_is_honoured(peer: Peer, session: int) -> None:
    key = aes(peer, session, *SECRET, (CKA.WRAP_WITH_TRUSTED, True))
    refused(CKR.KEY_NOT_WRAPPABLE, wrap, peer, session, aes(peer, session, *KEK), key)


# --- sticky: restarts, gates, threads


def test_what_was_decided_outlives_the_gate(machine: Machine) -> None:
    guest = machine.guest()
    guest.associate()
    peer = guest.connect()
    session = peer.session(slot_of(CRYPTO), login=True)
    kek = aes(peer, session, *BOTH, (CKA.TOKEN, True), label=b"kek")
    blob = wrap(peer, session, kek, aes(peer, session, *SECRET))
    peer.close()
    guest.keeper.unbind(CRYPTO)
    guest.leave()
    later = machine.guest("later")
    later.associate()
    peer = later.connect()
    session = peer.session(slot_of(CRYPTO), login=True)
    (kek,) = peer.find(session, (CKA.LABEL, b"kek"))
    assert peer.rv("C_DecryptInit", session, ECB, kek) == CKR.KEY_FUNCTION_NOT_PERMITTED
    refused(CKR.TEMPLATE_INCONSISTENT, unwrap, peer, session, kek, blob, (CKA.SENSITIVE, False))
    assert unwrap(peer, session, kek, blob)


def test_two_gates_see_one_truth(machine: Machine) -> None:
    """Two guests with the same keys are two processes with one partition."""
    one, two = machine.guest("one"), machine.guest("two")
    one.associate()
    two.associate()
    first, second = one.connect(), two.connect()
    s1, s2 = (peer.session(slot_of(CRYPTO), login=True) for peer in (first, second))
    kek = aes(first, s1, *BOTH, (CKA.TOKEN, True), label=b"shared")
    wait_for(lambda: bool(second.find(s2, (CKA.LABEL, b"shared"))), "the other gate sees the key")
    (same,) = second.find(s2, (CKA.LABEL, b"shared"))
    blob = wrap(first, s1, kek, aes(first, s1, *SECRET))
    assert second.rv("C_DecryptInit", s2, ECB, same) == CKR.KEY_FUNCTION_NOT_PERMITTED
    refused(CKR.TEMPLATE_INCONSISTENT, unwrap, second, s2, same, blob, (CKA.SENSITIVE, False))
    assert (directory := next(machine.partitions.iterdir()))
    assert (directory / NAME).stat().st_mode & 0o77 == 0


def test_of_two_that_race_one_side_wins(shared: Guest) -> None:
    slot = slot_of(CRYPTO)
    with Peer(shared.keeper.door) as one, Peer(shared.keeper.door) as two:
        s1, s2 = one.session(slot, login=True), two.session(slot, login=True)
        secret = aes(one, s1, *SECRET)
        for number in range(12):
            label = f"race{number}".encode()
            key = aes(one, s1, *BOTH, (CKA.TOKEN, True), label=label)
            (same,) = two.find(s2, (CKA.LABEL, label))
            results, start = {}, threading.Barrier(2)

            def wraps(key: int = key, results: dict[str, int] = results, start: Any = start) -> None:
                start.wait()
                results["wrap"] = one.rv("C_WrapKey", s1, KW, key, secret, 4096)

            def decrypts(key: int = same, results: dict[str, int] = results, start: Any = start) -> None:
                start.wait()
                results["decrypt"] = two.rv("C_DecryptInit", s2, ECB, key)

            threads = [threading.Thread(target=wraps), threading.Thread(target=decrypts)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(results.values()) == [CKR.OK, CKR.KEY_FUNCTION_NOT_PERMITTED], results
            if results["decrypt"] == 0:
                two.call("C_Decrypt", s2, bytes(16), 64)
            one.call("C_DestroyObject", s1, key)


def test_an_accelerator_serves_clear_keys_as_before(peer: Peer) -> None:
    session = peer.session(slot_of(ACCELERATOR))
    key = peer.clear_key(session, b"k" * 16)
    for _ in range(3):
        assert len(peer.encrypt(session, key, bytes(16))) == 16
