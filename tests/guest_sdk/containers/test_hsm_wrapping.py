"""Which way goes with which key, and what counts of what it opens: with keys in this process instead of an HSM."""

from __future__ import annotations

import base64
import functools
import os
from collections.abc import Mapping

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.chain import ExactImage, MinimumVersion
from keyvisor_guest.containers.errors import KeyRefused
from keyvisor_guest.containers.hsm_keys import AesInHsm, HashNotOffered, RsaInHsm
from keyvisor_guest.containers.hsm_wrapping import release_from_hsm, wrap_for, wrap_release
from keyvisor_guest.containers.key_wrapping import Context, OaepHash
from keyvisor_guest.containers.keys import VolumeKey, image_id
from keyvisor_guest.containers.ocicrypt import wrap_annotation
from keyvisor_guest.containers.release import Release, parse_release, release_bytes

KEY = b"\x11\x22\x33\x44" * 8
MINIMUM = Release(VolumeKey(KEY), MinimumVersion(3, image_id(b"payments-service")))
ROOT = ExactImage(b"\x55" * 32)
EXACT = Release(VolumeKey(KEY), ROOT)


class Aes(AesInHsm):
    def __init__(self, key: bytes = b"\x01" * 32, wrong: bool = False) -> None:
        self.key, self.wrong, self.asked = key, wrong, 0

    def cmac(self, data: bytes) -> bytes:
        made = CMAC(AES(self.key))
        self.asked += 1
        made.update(data + (bytes([self.asked]) if self.wrong else b""))
        return made.finalize()


@functools.cache
def pair(number: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 3072)


class Rsa(RsaInHsm):
    def __init__(self, number: int = 0, offered: tuple[OaepHash, ...] = tuple(OaepHash)) -> None:
        self.private, self.offered = pair(number), offered

    def public_key(self) -> rsa.RSAPublicKey:
        return self.private.public_key()

    def decrypt(self, blob: bytes, hashed: OaepHash) -> bytes:
        if hashed not in self.offered:
            raise HashNotOffered("no such hash")
        algorithm = {OaepHash.SHA1: SHA1, OaepHash.SHA256: SHA256}[hashed]
        return self.private.decrypt(blob, OAEP(MGF1(algorithm()), algorithm(), None))


def annotations(*keys: AesInHsm | RsaInHsm, release: Release = MINIMUM) -> Mapping[str, str]:
    """What the image carries for all of them, in this order."""
    made: dict[str, str] = {}
    for key in keys:
        scheme, text = wrap_release(key, release, os.urandom)
        made[scheme] = f"{made[scheme]},{text}" if scheme in made else text
    return made


def test_what_an_aes_key_opens_counts_as_it_says() -> None:
    found = release_from_hsm(Aes(), annotations(Aes()), None)
    assert release_bytes(found) == release_bytes(MINIMUM)
    found = release_from_hsm(Aes(), annotations(Aes(), release=EXACT), ROOT)
    assert found.demand == ROOT
    for other in (annotations(Aes()), annotations(Aes(), release=Release(EXACT.key, ExactImage(bytes(32))))):
        with pytest.raises(KeyRefused, match="something else than `--root`"):
            release_from_hsm(Aes(), other, ROOT)


def test_what_an_rsa_key_opens_says_nothing_of_the_image() -> None:
    """Anybody can wrap any demand for a public key: the root that the owner says takes its place."""
    with pytest.raises(KeyRefused, match="anybody"):
        release_from_hsm(Rsa(), annotations(Rsa()), None)
    assert release_from_hsm(Rsa(), annotations(Rsa()), ROOT).demand == ROOT


@pytest.mark.parametrize("offered", [(OaepHash.SHA256,), (OaepHash.SHA1,)])
def test_the_best_hash_that_the_hsm_can_do_is_used(offered: tuple[OaepHash, ...]) -> None:
    wrapped = wrap_for(Rsa(offered=offered), release_bytes(MINIMUM), Context.RELEASE, os.urandom)
    assert offered[0].encode() in wrapped.data
    both = wrap_for(Rsa(), release_bytes(MINIMUM), Context.RELEASE, os.urandom)
    assert b"sha256" in both.data
    with pytest.raises(KeyRefused, match="use an AES key"):
        wrap_for(Rsa(offered=()), b"x", Context.RELEASE, os.urandom)


def test_jwe_is_opened_where_there_is_no_pkcs11() -> None:
    text = wrap_annotation(release_bytes(MINIMUM), [pair(0).public_key()], os.urandom)
    assert release_from_hsm(Rsa(), {"jwe": text}, ROOT).key.reveal() == KEY
    with pytest.raises(KeyRefused, match="wrapped for others"):
        release_from_hsm(Rsa(1), {"jwe": text}, ROOT)


@given(st.permutations([b"\x01" * 32, b"\x02" * 32, b"\x03" * 32]))
def test_each_of_several_opens_its_own(order: list[bytes]) -> None:
    carried = annotations(*(Aes(one) for one in order))
    for one in order:
        assert release_bytes(release_from_hsm(Aes(one), carried, None)) == release_bytes(MINIMUM)
    with pytest.raises(KeyRefused, match="wrapped for"):
        release_from_hsm(Aes(b"\x04" * 32), carried, None)


def test_what_the_hsm_would_not_open_again_is_not_kept() -> None:
    """A broken twin: an HSM that answers differently each time."""
    with pytest.raises(KeyRefused):
        wrap_for(Aes(wrong=True), release_bytes(MINIMUM), Context.RELEASE, os.urandom)


@given(st.dictionaries(st.sampled_from(["jwe", "pkcs11", "provider.keyvisor"]), st.text(max_size=60)))
def test_whatever_the_manifest_carries_is_refused_in_an_orderly_way(carried: dict[str, str]) -> None:
    for key in (Aes(), Rsa()):
        with pytest.raises(KeyRefused):
            release_from_hsm(key, carried, ROOT)


@given(st.binary(max_size=200))
def test_what_was_wrapped_and_is_no_release_is_not_shown(content: bytes) -> None:
    wrapped = wrap_for(Aes(), content, Context.RELEASE, os.urandom)
    carried = {wrapped.scheme: base64.b64encode(wrapped.data).decode()}
    with pytest.raises(KeyRefused, match="no volume key") as refused:
        release_from_hsm(Aes(), carried, None)
    assert content.hex() not in str(refused.value) or len(content) < 2
    with pytest.raises(KeyRefused):
        parse_release(content)
