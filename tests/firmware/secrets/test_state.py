"""The store's state as bytes: version 2, and version 1 as it is still read."""

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.secrets import StateBroken, StoredSecret, StoreState, decode_state, encode_state
from keyvisor_guest.wire.secret_ids import id_from_name
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind


def exactly(length: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=length, max_size=length)


@st.composite
def stored(draw: st.DrawFn) -> StoredSecret:
    row = draw(st.sampled_from([row for row in KINDS.values() if row.listed]))
    length = draw(st.sampled_from(row.lengths))
    return StoredSecret(row.kind, draw(exactly(32)), draw(exactly(16)).ljust(length, b"\x01")[:length])


def with_wrapping_key(state: StoreState) -> StoreState:
    """A store with a key has a wrapping key."""
    if state.wrapping_key is None and any(KINDS[entry.kind].is_key for entry in state.entries):
        return dataclasses.replace(state, wrapping_key=b"\x77" * 64)
    return state


states = st.builds(
    StoreState,
    entries=st.lists(stored(), max_size=4).map(tuple),
    extension_secret=st.none() | exactly(32) | st.just(bytes(32)),
    locked=st.booleans(),
    dump_disabled=st.booleans(),
    request_tags=st.lists(exactly(16), max_size=6).map(tuple),
    cck=st.none() | exactly(32) | st.just(bytes(32)),
    wrapping_key=st.none() | exactly(64),
).map(with_wrapping_key)


@given(state=states)
def test_a_state_comes_back(state):
    encoded = encode_state(state)
    decoded = decode_state(encoded)
    assert decoded == state
    assert encode_state(decoded) == encoded


@given(state=states, data=st.data())
def test_one_state_has_one_encoding(state, data):
    """Whatever is changed is refused, or is the encoding of another state."""
    encoded = bytearray(encode_state(state))
    offset = data.draw(st.integers(0, len(encoded) - 1))
    encoded[offset] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode_state(bytes(encoded))
    except StateBroken:
        return
    assert decoded != state
    assert encode_state(decoded) == bytes(encoded)


@given(data=st.binary(max_size=200))
def test_any_bytes_are_refused(data):
    with pytest.raises(StateBroken):
        decode_state(data)


STATE = StoreState(
    (StoredSecret(SecretKind.ASSOCIATION, id_from_name("one"), b"\x5e" * 32),),
    b"\xe1" * 32,
    False,
    True,
    (bytes(16),),
    b"\xcc" * 32,
    b"\x77" * 64,
)
ALL_HEADS = 0x98  # where the entries begin


def version_1(state: StoreState) -> bytes:
    """What the first release wrote."""
    encoded = encode_state(dataclasses.replace(state, cck=None, wrapping_key=None))
    return encoded[:8] + b"\x00\x00\x00\x01" + encoded[12:0x38] + encoded[ALL_HEADS:]


def test_the_encoding_stays_what_it_is():
    """Golden: what one release has sealed, the next one must read."""
    assert hashlib.sha256(encode_state(STATE)).hexdigest() == (
        "10c4036f50658cb8011c482195d6a30057147d8d92a2a200559462ea95855967"
    )
    assert encode_state(StoreState()).hex() == b"kvsecret".hex() + "00000002" + "00" * 140


def test_version_1_is_read():
    """The digest is the one that the first release's test had."""
    old = dataclasses.replace(STATE, cck=None, wrapping_key=None)
    encoded = version_1(old)
    assert hashlib.sha256(encoded).hexdigest() == (
        "2b4b23f1f916538bf3486e289190af6122047c1a43d5276716eaf5cbefa0d8ca"
    )
    assert decode_state(encoded) == old
    assert decode_state(b"kvsecret" + b"\x00\x00\x00\x01" + bytes(44)) == StoreState()
    for flags in (0x08, 0x10):
        with pytest.raises(StateBroken):
            decode_state(encoded[:0x0F] + bytes([encoded[0x0F] | flags]) + encoded[0x10:])


def test_a_key_without_a_wrapping_key_is_refused():
    """No store has one: the two come with one request."""
    keys = (StoredSecret(SecretKind.AES_128, id_from_name("one"), bytes(16)),)
    with pytest.raises(StateBroken, match="nothing to wrap"):
        decode_state(encode_state(StoreState(keys)))
    with pytest.raises(StateBroken, match="nothing to wrap"):
        decode_state(version_1(StoreState(keys)))
    assert decode_state(encode_state(StoreState(keys, wrapping_key=bytes(64)))).entries == keys


def test_every_cut_and_every_addition_is_refused():
    encoded = encode_state(STATE)
    for length in range(len(encoded)):
        with pytest.raises(StateBroken):
            decode_state(encoded[:length])
    with pytest.raises(StateBroken, match="left over"):
        decode_state(encoded + b"\x00")


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"K"),
        (8, b"\x00\x00\x00\x00"),
        (8, b"\x00\x00\x00\x01"),
        (8, b"\x00\x00\x00\x03"),
        (0x0C, b"\x00\x00\x00\x3e"),
        (0x0C, b"\x00\x00\x00\x1a"),  # an extension secret, and the flag says there is none
        (0x0C, b"\x00\x00\x00\x16"),  # a CCK
        (0x0C, b"\x00\x00\x00\x0e"),  # a wrapping key
        (0x10, b"\xff\xff\xff\xff"),
        (0x14, b"\xff\xff\xff\xff"),
        (0x98, b"\x00\x01"),  # null: never an entry
        (0x98, b"\x00\x16"),  # update of the CCK: neither
        (0x98, b"\x00\x0b"),
        (0x9A, b"\x00\x01"),
        (0x9C, b"\x00\x00\x00\x10"),
    ],
)
def test_what_no_store_holds_is_refused(offset, value):
    encoded = encode_state(STATE)
    with pytest.raises(StateBroken):
        decode_state(encoded[:offset] + value + encoded[offset + len(value) :])


def test_secrets_are_in_no_repr_of_the_state():
    assert b"\x5e".hex() * 4 not in repr(STATE)
    assert "^^^^" not in repr(STATE)
    for byte in ("e1", "cc", "77"):
        assert f"\\x{byte}" not in repr(STATE)
    assert "wwww" not in repr(STATE)
