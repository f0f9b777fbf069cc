"""Wrapping for a key that is elsewhere: what comes back, what does not, and that it is the standards'."""

from __future__ import annotations

import base64
import functools
import json
import os
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFCMAC, CounterLocation, Mode
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.chain import ExactImage
from keyvisor_guest.containers.errors import KeyRefused
from keyvisor_guest.containers.key_wrapping import (
    MAX_PAYLOAD,
    Context,
    OaepDecrypt,
    OaepHash,
    open_rsa,
    open_sealed,
    seal,
    wrap_rsa,
)
from keyvisor_guest.containers.keys import VolumeKey
from keyvisor_guest.containers.release import Release, release_bytes

KEY = b"\x5a\xa5" * 16
RELEASE = release_bytes(Release(VolumeKey(b"\x11\x22\x33\x44" * 8), ExactImage(b"\x55" * 32)))
HASHES = {OaepHash.SHA1: SHA1, OaepHash.SHA256: SHA256}


def cmac_of(key: bytes) -> Callable[[bytes], bytes]:
    def cmac(data: bytes) -> bytes:
        made = CMAC(AES(key))
        made.update(data)
        return made.finalize()

    return cmac


@functools.cache
def private(bits: int = 3072) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@functools.cache
def other() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 3072)


def decrypt_of(key: rsa.RSAPrivateKey) -> OaepDecrypt:
    return lambda blob, hashed: key.decrypt(blob, OAEP(MGF1(HASHES[hashed]()), HASHES[hashed](), None))


contexts = st.sampled_from(Context)


@given(st.binary(max_size=600), contexts)
def test_what_is_sealed_opens(payload: bytes, context: Context) -> None:
    assert open_sealed(seal(payload, context, cmac_of(KEY), os.urandom), context, cmac_of(KEY)) == payload


@given(contexts, st.binary(min_size=32, max_size=32))
def test_the_sealing_key_is_that_of_sp_800_108(context: Context, salt: bytes) -> None:
    """Another implementation of the KDF opens what was sealed."""
    sealed = json.loads(seal(b"payload", context, cmac_of(KEY), lambda length: salt[:length]))
    kdf = KBKDFCMAC(
        AES, Mode.CounterMode, 32, 4, 4, CounterLocation.BeforeFixed, context.value.encode(), salt, None
    )
    iv, body = base64.b64decode(sealed["iv"]), base64.b64decode(sealed["sealed"])
    assert AESGCM(kdf.derive(KEY)).decrypt(iv, body, context.value.encode()) == b"payload"


@given(contexts, contexts, st.binary(min_size=32, max_size=32))
def test_another_key_or_another_context_opens_nothing(one: Context, two: Context, key: bytes) -> None:
    sealed = seal(RELEASE, one, cmac_of(KEY), os.urandom)
    if (one, KEY) == (two, key):
        return
    if one != two:
        with pytest.raises(KeyRefused, match="wrapped for"):
            open_sealed(sealed, two, cmac_of(KEY))
    with pytest.raises(KeyRefused, match="wrapped for"):
        open_sealed(sealed, one, cmac_of(key))


@given(st.sampled_from(["salt", "iv", "sealed"]), st.integers(0, 10_000), st.integers(1, 255))
def test_one_changed_byte_opens_nothing_and_says_nothing(name: str, at: int, flip: int) -> None:
    members = json.loads(seal(RELEASE, Context.RELEASE, cmac_of(KEY), os.urandom))
    part = bytearray(base64.b64decode(members[name]))
    part[at % len(part)] ^= flip
    members[name] = base64.b64encode(part).decode()
    with pytest.raises(KeyRefused) as refused:
        open_sealed(json.dumps(members).encode(), Context.RELEASE, cmac_of(KEY))
    assert KEY.hex() not in str(refused.value)
    assert "11223344" not in str(refused.value)


@pytest.mark.parametrize("hashed", OaepHash)
def test_a_release_goes_through_an_rsa_key_of_3072_bits(hashed: OaepHash) -> None:
    wrapped = wrap_rsa(RELEASE, private().public_key(), hashed)
    assert json.loads(wrapped)["recipients"][0]["hash"] == hashed
    assert open_rsa(wrapped, decrypt_of(private())) == RELEASE
    with pytest.raises(KeyRefused, match="wrapped for") as refused:
        open_rsa(wrapped, decrypt_of(other()))
    assert refused.value.__context__ is None or RELEASE[:20] not in str(refused.value.__context__).encode()


def test_ocicrypts_form_with_several_recipients_and_without_a_hash() -> None:
    """As ocicrypt 1.1 writes it: SHA-1 where nothing is said, any of the recipients opens."""
    mine = json.loads(wrap_rsa(RELEASE, private().public_key(), OaepHash.SHA1))["recipients"][0]
    theirs = json.loads(wrap_rsa(RELEASE, other().public_key(), OaepHash.SHA256))["recipients"][0]
    del mine["hash"]
    wrapped = json.dumps({"version": 0, "recipients": [theirs, mine]}).encode()
    for key in (private(), other()):
        assert open_rsa(wrapped, decrypt_of(key)) == RELEASE


def test_keys_and_payloads_that_do_not_fit() -> None:
    with pytest.raises(KeyRefused, match="2048 bits is too short: use 3072"):
        wrap_rsa(b"x", private(2048).public_key(), OaepHash.SHA1)
    for hashed, room in ((OaepHash.SHA256, 318), (OaepHash.SHA1, 342)):
        assert wrap_rsa(bytes(room), private().public_key(), hashed)
        with pytest.raises(KeyRefused, match=f"room for {room}"):
            wrap_rsa(bytes(room + 1), private().public_key(), hashed)
    assert seal(bytes(MAX_PAYLOAD), Context.RELEASE, cmac_of(KEY), os.urandom)
    with pytest.raises(KeyRefused, match="at most"):
        seal(bytes(MAX_PAYLOAD + 1), Context.RELEASE, cmac_of(KEY), os.urandom)


def test_a_cmac_of_another_length_makes_no_key() -> None:
    """A broken twin: what answers with less would make a weak key."""
    for length in (0, 8, 32):
        with pytest.raises(KeyRefused, match="CMAC"):
            seal(b"x", Context.RELEASE, lambda _, length=length: bytes(length), os.urandom)


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.integers(0, 2) | st.text(max_size=8) | st.just([]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["version", "recipients", "blob", "hash", "method", "salt", "iv", "sealed"]),
                inner,
            )
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_stands_in_an_annotation_is_refused_in_an_orderly_way(data: bytes) -> None:
    def nothing(*_: object) -> bytes:
        raise ValueError("not for this key")

    with pytest.raises(KeyRefused):
        open_sealed(data, Context.RELEASE, cmac_of(KEY))
    with pytest.raises(KeyRefused):
        open_rsa(data, nothing)
