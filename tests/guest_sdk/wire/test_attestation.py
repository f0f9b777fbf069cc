"""What is measured, and what an owner makes of an answer: a good one, and a broken twin for every check."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace

import pytest

from keyvisor_guest.owner import Owner
from keyvisor_guest.wire.arcb import AddData, AttestationContents, open_request, parse
from keyvisor_guest.wire.attestation import (
    AdditionalData,
    Expected,
    measurement,
    secret_store_hash,
    verify,
)
from keyvisor_guest.wire.attestation_file import AttestationFile
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.errors import AttestationUnverified, Malformed, Unbuildable
from keyvisor_guest.wire.p521 import public_key_hash

IDENTITY = BootIdentity(b"\x01" * 64, b"\x02" * 64, b"\x03" * 64, b"\x04" * 16)
CUID = b"\x42" * 16
STORE = b"\x5e" * 64
EVERYTHING = (AddData.IMAGE_HOST_KEY, AddData.ATTESTATION_HOST_KEY, AddData.SECRET_STORE_HASH)


def test_the_measurement_byte_by_byte():
    """Formats, C.6, spelt out."""
    measured = (
        b"\x01" * 64 + b"\x02" * 64 + b"\x03" * 64 + b"\x04" * 16 + b"\x42" * 16
        + b"\x00\x05" + b"\x00\x00" + b"\x00\x00\x00\x20" + b"hello" + b"\xab" * 16 + b"\x0a" * 32
    )  # fmt: skip
    key = b"\x77" * 64
    expected = hmac.new(key, measured, hashlib.sha512).digest()
    contents = AttestationContents(key, b"\xab" * 16)
    assert measurement(contents, IDENTITY, CUID, b"hello", b"\x0a" * 32) == expected
    without = hmac.new(key, measured.replace(b"\xab" * 16, b""), hashlib.sha512).digest()
    assert measurement(replace(contents, nonce=None), IDENTITY, CUID, b"hello", b"\x0a" * 32) == without


def test_the_secret_store_hash(vectors):
    """Formats, C.6: over the tags in order, and the lock."""
    tag = vectors.read("upstream/assoc_simple_default_cuid_one")[-16:]
    assert secret_store_hash([tag, CUID], locked=True) == hashlib.sha512(tag + CUID + b"\x01").digest()
    assert secret_store_hash([], locked=False) == hashlib.sha512(b"\x00").digest()


def test_additional_data_come_in_the_order_of_the_flags():
    data = AdditionalData(b"\x0a" * 32, b"\x0b" * 32, b"\x0c" * 64)
    assert data.encode(EVERYTHING) == b"\x0a" * 32 + b"\x0b" * 32 + b"\x0c" * 64
    assert AdditionalData.decode(EVERYTHING, data.encode(EVERYTHING)) == data
    assert data.encode(EVERYTHING[2:]) == b"\x0c" * 64
    assert AdditionalData.decode((), b"") == AdditionalData()
    for wrong in (bytes(127), bytes(129)):
        with pytest.raises(Malformed):
            AdditionalData.decode(EVERYTHING, wrong)
    for twin in (replace(data, image_host_key=None), replace(data, secret_store_hash=bytes(63))):
        with pytest.raises(ValueError, match="not those that were asked for"):
            twin.encode(EVERYTHING)


class Story:
    """An owner's request, and what an honest firmware answers."""

    def __init__(self, host_key, asked=EVERYTHING) -> None:
        self.made = Owner([host_key.public_key()]).attestation_request(asked)
        self.request = AttestationFile.decode(self.made.data)
        self.host_key = host_key
        self.hash = public_key_hash(host_key.public_key())

    def answer(self, identity=IDENTITY, cuid=CUID, user_data=b"mine", request=None):
        block = parse(request or self.request.request)
        contents, opened_with = open_request(block, [self.host_key])
        additional = AdditionalData(self.hash, opened_with, STORE).encode(block.asked)
        measured = measurement(contents, identity, cuid, user_data, additional)
        return AttestationFile(block.encode(), measured, additional, user_data, cuid)


@pytest.fixture
def story(host_key):
    return Story(host_key)


def test_a_request_says_what_it_expects(story):
    assert story.request.expected == {"measurement": 64, "additional": 128, "cuid": 16}
    assert len(story.made.key) == 32
    assert "key=" not in repr(story.made)
    assert "data=" not in repr(story.made)


def test_no_two_requests_are_alike(host_key):
    owner = Owner([host_key.public_key()])
    first, second = owner.attestation_request(), owner.attestation_request()
    assert first.key != second.key
    contents = [
        open_request(parse(AttestationFile.decode(one.data).request), [host_key])[0]
        for one in (first, second)
    ]
    assert contents[0].measurement_key != contents[1].measurement_key
    assert contents[0].nonce != contents[1].nonce


def test_what_cannot_be_measured_is_refused(host_key):
    with pytest.raises(Unbuildable, match="`weather` is nothing that can be measured: there is `phkh-img`"):
        Owner([host_key.public_key()]).attestation_request(["weather"])


def test_an_honest_answer_is_verified(story):
    found = verify(story.answer(), story.made.key, IDENTITY)
    assert (found.cuid, found.user_data) == (CUID, b"mine")
    assert found.additional == AdditionalData(story.hash, story.hash, STORE)


def test_what_is_expected_besides_is_verified(story):
    expected = Expected(b"mine", STORE, (bytes(32), story.hash))
    assert verify(story.answer(), story.made.key, IDENTITY, expected).cuid == CUID


def test_additional_data_need_not_be_asked_for(host_key):
    story = Story(host_key, ())
    assert verify(story.answer(), story.made.key, IDENTITY).additional == AdditionalData()


LIES = {
    "another image": lambda s: s.answer(replace(IDENTITY, pld=b"\xee" * 64)),
    "another header": lambda s: s.answer(replace(IDENTITY, header_tag=b"\xee" * 16)),
    "another CUID": lambda s: replace(s.answer(), cuid=b"\xee" * 16),
    "other additional data": lambda s: replace(s.answer(), additional=b"\xee" * 128),
    "other user data": lambda s: replace(s.answer(), user_data=b"yours"),
    "no user data": lambda s: replace(s.answer(), user_data=b""),
    "another measurement": lambda s: replace(s.answer(), measurement=b"\xee" * 64),
    "another request's measurement": lambda s: replace(
        s.answer(), measurement=Story(s.host_key).answer().measurement
    ),
    "additional data put into the user data": lambda s: replace(
        s.answer(), user_data=s.answer().user_data + s.answer().additional[:32]
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_part3_T2_a_lying_host_is_found_out(story, lie):
    with pytest.raises(AttestationUnverified, match="the measurement is not that of a guest with this"):
        verify(LIES[lie](story), story.made.key, IDENTITY)


def test_an_own_request_of_the_hosts_is_found_out(story):
    """The host can make a request of its own and answer it; the owner's key does not open it."""
    hosts_own = Story(story.host_key)
    with pytest.raises(AttestationUnverified, match="not the one that this key was made with"):
        verify(hosts_own.answer(), story.made.key, IDENTITY)


def test_fewer_flags_are_found_out(story):
    """Else a host could leave out the secret-store hash."""
    bad = bytearray(story.answer().request)
    bad[0x30] &= ~0x08
    answer = replace(story.answer(), request=bytes(bad), additional=bytes(64))
    with pytest.raises(AttestationUnverified, match="not the one that this key"):
        verify(answer, story.made.key, IDENTITY)


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("measurement", b"", "measurement has 0 bytes, not 64"),
        ("measurement", bytes(63), "measurement has 63 bytes"),
        ("cuid", b"", "CUID has 0 bytes, not 16"),
        ("additional", b"", "additional data has 0 bytes, not 128"),
        ("additional", bytes(129), "additional data has 129 bytes"),
        ("request", b"R" * 400, "no attestation request"),
    ],
)
def test_parts_that_are_missing_are_told(story, part, value, said):
    with pytest.raises(AttestationUnverified, match=said):
        verify(replace(story.answer(), **{part: value}), story.made.key, IDENTITY)


def test_every_flipped_byte_of_an_answer_is_found_out(story):
    data = story.answer().encode()
    for offset in range(len(data)):
        bad = bytearray(data)
        bad[offset] ^= 1
        with pytest.raises((AttestationUnverified, Malformed)):
            verify(AttestationFile.decode(bytes(bad)), story.made.key, IDENTITY)


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        (Expected(user_data=b"yours"), "other user data than was expected"),
        (Expected(user_data=b""), "other user data than was expected"),
        (Expected(secret_store_hash=b"\xee" * 64), "the secret store is not in the expected state"),
        (Expected(host_keys=(bytes(32),)), "in none of the given host-key documents"),
    ],
)
def test_what_is_not_as_expected_is_told(story, expected, said):
    with pytest.raises(AttestationUnverified, match=said):
        verify(story.answer(), story.made.key, IDENTITY, expected)


def test_host_keys_that_were_not_asked_for_are_not_verified(host_key):
    story = Story(host_key, (AddData.SECRET_STORE_HASH,))
    with pytest.raises(AttestationUnverified, match="did not ask which host keys were used"):
        verify(story.answer(), story.made.key, IDENTITY, Expected(host_keys=(story.hash,)))


@pytest.mark.parametrize("asked", [EVERYTHING[:1], EVERYTHING[1:2]])
def test_one_host_key_that_was_asked_for_is_enough(host_key, asked):
    story = Story(host_key, asked)
    verify(story.answer(), story.made.key, IDENTITY, Expected(host_keys=(story.hash,)))
    with pytest.raises(AttestationUnverified, match="in none of the given"):
        verify(story.answer(), story.made.key, IDENTITY, Expected(host_keys=(bytes(32),)))


def test_a_store_that_was_not_asked_for_is_not_verified(host_key):
    story = Story(host_key, ())
    with pytest.raises(AttestationUnverified, match="did not ask for the secret-store hash"):
        verify(story.answer(), story.made.key, IDENTITY, Expected(secret_store_hash=STORE))
