"""What comes back out of a store, in which form, and how long a protected key is good."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyvisor_firmware.secrets import (
    KeyCode,
    KeyParameters,
    KeyRefused,
    KeyUse,
    Mode,
    Operation,
    RetrieveCode,
    StoreState,
    UvError,
    decode_state,
    encode_state,
)
from keyvisor_firmware.secrets.protected_keys import MARK, unwrap, wrap
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind

from .conftest import VALUES

KEYS = [row.kind for row in KINDS.values() if row.is_key]
GCM = KeyParameters(mode=Mode.GCM, iv=bytes(12))


def refused(code: int):
    return pytest.raises(UvError, check=lambda error: error.rc == code)


def key_refused(code: KeyCode):
    return pytest.raises(KeyRefused, check=lambda error: error.code is code)


def use_of(blob: bytes, kind: SecretKind = SecretKind.AES_256) -> KeyUse:
    return KeyUse(kind, blob, Operation.ENCRYPT, b"data", GCM)


@pytest.mark.parametrize("kind", KEYS)
def test_part3_T8_a_key_comes_back_as_long_as_the_list_says_and_not_in_clear(guest, kind):
    store = guest.store()
    store.add(guest.kind_request(kind))
    (entry,) = store.list()
    found = store.retrieve(0)
    assert (found.kind, found.id, found.index) == (kind, entry.id, 0)
    assert len(found.value) == entry.length == len(VALUES[kind]) + 32
    clear = VALUES[kind].lstrip(b"\x00")
    assert not any(clear[at : at + 8] in found.value for at in range(len(clear) - 7))
    assert MARK in found.value, "it says whose it is"
    assert store.retrieve(0) == found, "the same each time"


def test_a_plaintext_secret_comes_back_as_it_was_put_in(guest):
    store = guest.store()
    store.add(guest.kind_request(SecretKind.PLAINTEXT))
    assert store.list()[0].length == 16
    assert store.retrieve(0).value == b"\x00\x0aclear text" + bytes(4)


def test_what_is_retrieved_is_in_no_repr(guest):
    store = guest.store()
    store.add(guest.kind_request(SecretKind.PLAINTEXT))
    assert "clear text" not in repr(store.retrieve(0))


@pytest.mark.parametrize(("payload", "padded"), [(0, 16), (14, 16), (15, 32), (8190, 8192)])
def test_part3_T11_plaintext_secrets_from_nothing_to_8190_bytes(guest, payload, padded):
    value = (payload.to_bytes(2, "big") + b"\x5a" * payload).ljust(padded, b"\x00")
    store = guest.store()
    store.add(guest.kind_request(SecretKind.PLAINTEXT, secret=value))
    assert store.list()[0].length == padded
    assert store.retrieve(0).value == value


@pytest.mark.parametrize("length", [0, 8, 17, 8191, 8193, 8208])
def test_part3_T11_plaintext_secrets_of_other_lengths_are_refused(guest, length):
    """8191 bytes of payload would be 8208 with length and padding. The builder makes none: the header is patched."""
    request = guest.kind_request(SecretKind.PLAINTEXT)
    store = guest.store()
    with refused(0x010A):
        store.add(guest.patched(request, {0x4B8 + 80 + 4: length.to_bytes(4, "big")}))
    assert store.state == StoreState()


def test_part3_T5_what_is_in_the_store_comes_back_after_the_lock(guest):
    store = guest.store()
    store.add(guest.kind_request(SecretKind.AES_256))
    store.add(guest.kind_request(SecretKind.PLAINTEXT))
    before = store.retrieve(0), store.retrieve(1)
    store.lock()
    assert (store.retrieve(0), store.retrieve(1)) == before
    assert store.use(use_of(before[0].value))


def test_every_refusal_of_a_retrieval_has_its_code(guest):
    store = guest.store()
    with refused(0x010F):
        store.retrieve(0)
    store.add(guest.kind_request(SecretKind.ASSOCIATION))
    store.add(guest.kind_request(SecretKind.AES_128))
    with refused(0x0111):
        store.retrieve(0)
    for index in (2, -1, 0x10000):
        with refused(0x0110):
            store.retrieve(index)
    assert store.retrieve(1, room=48)
    for room in (47, 2, 0):
        with refused(0x0109) as small:
            store.retrieve(1, room=room)
        assert small.value.rc is RetrieveCode.BUFFER_TOO_SMALL
        assert "buffer" in str(small.value)


def test_part3_T8_a_protected_key_is_good_in_its_own_instance_only(guest):
    first, second = guest.store(), guest.store(cuid=b"\xc7" * 16)
    for store in (first, second):
        store.add(guest.kind_request(SecretKind.AES_256))
    blob = first.retrieve(0).value
    assert first.use(use_of(blob))
    assert second.retrieve(0).value != blob
    with key_refused(KeyCode.OTHER_WRAPPING_KEY):
        second.use(use_of(blob))
    with key_refused(KeyCode.OTHER_WRAPPING_KEY):
        guest.store().use(use_of(blob))


def test_part3_T8_a_new_start_refuses_it_and_a_new_firmware_does_not(guest):
    written = []
    store = guest.store(commit=written.append)
    store.add(guest.kind_request(SecretKind.AES_256))
    blob = store.retrieve(0).value
    answer = store.use(use_of(blob))

    firmware_again = guest.store(state=decode_state(encode_state(written[-1])))
    assert firmware_again.retrieve(0).value == blob
    assert firmware_again.use(use_of(blob)) == answer

    guest_again = guest.store()
    guest_again.add(guest.kind_request(SecretKind.AES_256))
    with key_refused(KeyCode.OTHER_WRAPPING_KEY):
        guest_again.use(use_of(blob))


def test_the_wrapping_key_is_made_with_the_first_key_and_stays(guest):
    made = []

    def randomness(length: int) -> bytes:
        made.append(length)
        return bytes([len(made)]) * length

    store = guest.store(randomness=randomness)
    store.add(guest.kind_request(SecretKind.PLAINTEXT))
    assert (made, store.state.wrapping_key) == ([], None)
    store.add(guest.kind_request(SecretKind.AES_128))
    store.add(guest.kind_request(SecretKind.EC_P256))
    assert (made, store.state.wrapping_key) == ([64], b"\x01" * 64)


@pytest.mark.parametrize("kind", KEYS)
def test_every_changed_byte_of_a_protected_key_is_refused(kind):
    blob = wrap(b"\x77" * 64, kind, VALUES[kind])
    assert unwrap(b"\x77" * 64, KINDS[kind], blob) == VALUES[kind]
    codes = set()
    for offset in range(len(blob)):
        broken = blob[:offset] + bytes([blob[offset] ^ 1]) + blob[offset + 1 :]
        with pytest.raises(KeyRefused) as error:
            unwrap(b"\x77" * 64, KINDS[kind], broken)
        codes.add(error.value.code)
    assert codes == {KeyCode.CHANGED, KeyCode.NOT_A_PROTECTED_KEY, KeyCode.OTHER_WRAPPING_KEY}


def test_a_protected_key_is_of_one_kind():
    """Of another one with the same length it is refused as changed, of another length as none."""
    blob = wrap(b"\x77" * 64, SecretKind.AES_256, VALUES[SecretKind.AES_256])
    with key_refused(KeyCode.CHANGED):
        unwrap(b"\x77" * 64, KINDS[SecretKind.EC_P256], blob)
    with key_refused(KeyCode.NOT_A_PROTECTED_KEY):
        unwrap(b"\x77" * 64, KINDS[SecretKind.AES_128], blob)


@pytest.mark.parametrize(
    "kind", [SecretKind.NULL, SecretKind.ASSOCIATION, SecretKind.PLAINTEXT, SecretKind.UPDATE_CCK]
)
def test_what_is_no_key_is_not_used(guest, kind):
    with key_refused(KeyCode.NOT_A_PROTECTED_KEY):
        guest.store().use(use_of(bytes(64), kind))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blob=st.binary(max_size=200), kind=st.sampled_from(KEYS))
def test_part3_T14_any_bytes_are_no_protected_key(guest, blob, kind):
    store = guest.store()
    store.add(guest.kind_request(kind))
    with pytest.raises(KeyRefused) as error:
        store.use(use_of(blob, kind))
    assert error.value.code in (KeyCode.NOT_A_PROTECTED_KEY, KeyCode.OTHER_WRAPPING_KEY)
