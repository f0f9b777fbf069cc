"""Attestation request control blocks: layout, round trip, and every way to be no such block."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyvisor_guest.wire.arcb import (
    ADDITIONS,
    MAX_ARCB,
    AddData,
    AttestationContents,
    additional_length,
    build,
    flag_bits,
    open_request,
    parse,
    unseal,
)
from keyvisor_guest.wire.asrcb import FreshKeys
from keyvisor_guest.wire.errors import CannotDecrypt, Malformed, Unbuildable
from keyvisor_guest.wire.p521 import encode_point, public_key_hash

RPK, IV = b"\x17" * 32, b"\x55" * 12
CONTENTS = AttestationContents(b"\x77" * 64, b"\xab" * 16)


def made(customer_key, host_key, contents=CONTENTS, asked=(), hosts=1):
    return build(contents, asked, FreshKeys(customer_key, RPK, IV), [host_key.public_key()] * hosts)


def sealed_again(data: bytes, patches: dict[int, bytes], clear: bytes | None = None) -> bytes:
    """The request with other public bytes, under a tag that is valid for them."""
    length = int.from_bytes(data[0x2C:0x30], "big")
    end = len(data) - 16 - length
    inside = AESGCM(RPK).decrypt(IV, data[end:], data[:end]) if clear is None else clear
    public = bytearray(data[:end])
    for offset, value in patches.items():
        public[offset : offset + len(value)] = value
    return bytes(public) + AESGCM(RPK).encrypt(IV, inside, bytes(public))


def test_the_layout(customer_key, host_key):
    """Formats, C.6, field by field; 400 bytes is the size of the published request with a nonce (A.7)."""
    data = made(customer_key, host_key, asked=[AddData.ATTESTATION_HOST_KEY, AddData.IMAGE_HOST_KEY])
    assert len(data) == 400
    assert data[:8] == bytes(8)
    assert data[8:16].hex() == "0000010000000190"
    assert data[0x10:0x1C] == IV
    assert data[0x1C:0x30].hex() == "0000000000000000000000010000000000000050"
    assert data[0x30:0x38].hex() == "7000000000000000"
    assert data[0x38:0x40].hex() == "0000000100000000"
    assert data[0x40:0xE0] == encode_point(customer_key.public_key())
    assert data[0xE0:0x100] == public_key_hash(host_key.public_key())
    assert AESGCM(RPK).decrypt(IV, data[0x130:], data[:0x130]) == b"\x77" * 64 + b"\xab" * 16


def test_flags_are_numbered_as_the_source_has_it():
    assert [row.flag for row in ADDITIONS.values()] == [1 << 63 - bit for bit in (2, 3, 4, 5)]
    assert [row.length for row in ADDITIONS.values()] == [32, 32, 64, 320]
    assert list(ADDITIONS) == list(AddData)
    assert additional_length(list(AddData)) == 448


def test_the_slot_is_the_published_one(vectors):
    """The published requests have the same customer key, request key and host; so has the attestation request."""
    data = build(CONTENTS, (), FreshKeys(vectors.keys["customer"], RPK, IV), [vectors.upstream_host()])
    assert len(data) == 400
    published = vectors.read("upstream/assoc_simple_default_cuid_one")
    assert data[0xE0:0x130] == published[0x4B8 : 0x4B8 + 80]


@given(
    st.integers(1, 5),
    st.one_of(st.none(), st.binary(min_size=16, max_size=16)),
    st.binary(min_size=64, max_size=64),
    st.sets(st.sampled_from(AddData)),
)
@settings(max_examples=30, deadline=None)
def test_everything_comes_back(customer_key, host_key, hosts, nonce, key, asked):
    contents = AttestationContents(key, nonce)
    data = made(customer_key, host_key, contents, sorted(asked), hosts)
    block = parse(data)
    assert block.encode() == data
    assert block.asked == tuple(name for name in AddData if name in asked)
    assert block.has_nonce is (nonce is not None)
    assert block.flags & flag_bits(AddData) == flag_bits(sorted(asked))
    assert unseal(block, RPK) == contents
    assert open_request(block, [host_key]) == (contents, public_key_hash(host_key.public_key()))


def test_part3_T2_another_host_key_does_not_open_it(customer_key, host_key, other_key):
    block = parse(made(customer_key, host_key))
    with pytest.raises(CannotDecrypt, match="no key slot"):
        open_request(block, [other_key])
    assert open_request(block, [other_key, host_key])[1] == public_key_hash(host_key.public_key())


def test_part3_T1_every_flipped_byte_is_refused(customer_key, host_key):
    data = made(customer_key, host_key, asked=[AddData.SECRET_STORE_HASH])
    for offset in range(len(data)):
        for bit in (0x01, 0x80):
            bad = bytearray(data)
            bad[offset] ^= bit
            with pytest.raises((Malformed, CannotDecrypt)):
                open_request(parse(bytes(bad)), [host_key])


BROKEN = [
    ({0: b"\x01"}, "does not begin with eight zero"),
    ({8: b"\x00\x00\x02\x00"}, "version 0x200"),
    ({0x27: b"\x00"}, "for no host key"),
    ({0x27: b"\x02"}, "2 key slots and 80 encrypted bytes do not add up"),
    ({0x0C: b"\x00\x00\x01\x91"}, "says it has 401 bytes, 400 are there"),
    ({0x2C: b"\xff\xff\xff\xff"}, "do not add up"),
    ({0x30: b"\x00"}, "80 bytes are encrypted, the flags ask for 64"),
    ({0x30: b"\xc0"}, "unknown flags 8000000000000000"),
    ({0x37: b"\x01"}, "unknown flags 0000000000000001"),
    ({0x3B: b"\x02"}, "measurement algorithm 2"),
    ({0x1C: b"\x01"}, "reserved field at 0x1c"),
    ({0x26: b"\x01"}, "reserved field at 0x20"),
    ({0x28: b"\x01"}, "reserved field at 0x28"),
    ({0x3F: b"\x01"}, "reserved field at 0x3c"),
]


@pytest.mark.parametrize(("patches", "said"), BROKEN)
def test_a_broken_twin_says_why(customer_key, host_key, patches, said):
    with pytest.raises(Malformed, match=said):
        parse(sealed_again(made(customer_key, host_key), patches))


def test_a_nonce_that_is_not_flagged_and_one_that_is_missing(customer_key, host_key):
    without = made(customer_key, host_key, AttestationContents(b"\x77" * 64, None))
    assert len(without) == 384
    with pytest.raises(Malformed, match="64 bytes are encrypted, the flags ask for 80"):
        parse(sealed_again(without, {0x30: b"\x40"}))


@given(st.binary(max_size=600))
@example(bytes(0x30))
@example(bytes(8) + b"\0\0\1\0" + bytes(0x1B) + b"\xff" + bytes(4) + b"\xff" * 4)
def test_part3_T14_any_bytes_are_malformed_and_no_more(data):
    with pytest.raises(Malformed):
        parse(data)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_part3_T14_lengths_that_lie_are_refused(customer_key, host_key, data):
    good = made(customer_key, host_key)
    offset, width = data.draw(st.sampled_from([(0x0C, 4), (0x27, 1), (0x2C, 4)]))
    value = data.draw(
        st.integers(0, 256**width - 1).filter(
            lambda v: v != int.from_bytes(good[offset : offset + width], "big")
        )
    )
    with pytest.raises(Malformed):
        parse(good[:offset] + value.to_bytes(width, "big") + good[offset + width :])


def test_part3_T14_every_cut_and_every_addition_is_refused(customer_key, host_key):
    good = made(customer_key, host_key)
    for end in range(len(good)):
        with pytest.raises(Malformed):
            parse(good[:end])
    for bad in (good + b"\x00", bytes(MAX_ARCB + 1)):
        with pytest.raises(Malformed):
            parse(bad)


def test_what_cannot_be_built_is_refused(customer_key, host_key):
    for contents in (
        dataclasses.replace(CONTENTS, measurement_key=bytes(63)),
        dataclasses.replace(CONTENTS, nonce=bytes(15)),
    ):
        with pytest.raises(Unbuildable, match="a measurement key has 64 bytes"):
            made(customer_key, host_key, contents)
    with pytest.raises(Unbuildable, match="the IV has 12 bytes"):
        build(CONTENTS, (), FreshKeys(customer_key, RPK, bytes(11)), [host_key.public_key()])
    with pytest.raises(Unbuildable, match="1 to 255 host keys"):
        build(CONTENTS, (), FreshKeys(customer_key, RPK, IV), [])


def test_its_repr_tells_no_key(customer_key, host_key):
    text = repr(CONTENTS) + repr(parse(made(customer_key, host_key)))
    assert "wwww" not in text
    assert "77" * 8 not in text
