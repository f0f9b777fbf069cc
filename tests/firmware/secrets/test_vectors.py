"""The published requests, handed to the store of the guest they are for."""

import hashlib
import re

import pytest

from keyvisor_firmware.secrets import StoreState, UvError

TAKEN = (
    "derived/same/assoc_none_default_cuid_one",
    "derived/same/null_simple_default_cuid_one",
    "derived/same/null_none_default_ncuid_one",
    "derived/slots/ours_is_third",
    "derived/user/unsigned",
    "derived/user/ec521",
)
RETRIEVABLE = ("derived/retr/plain_10", "derived/retr/aes256", "derived/retr/hmac256", "derived/retr/p256")
BAD = tuple(f"derived/bad/{name}" for name in ("tag", "version_0200", "nks_0", "flag_bit_1", "boot_tags"))


def test_every_vector_has_a_test(manifest):
    assert {entry["file"] for entry in manifest} == {*TAKEN, *RETRIEVABLE, *BAD}


@pytest.mark.parametrize("name", TAKEN)
def test_a_good_request_is_taken(vector, manifest, vector_guest, name):
    expected = next(entry for entry in manifest if entry["file"] == name)
    store = vector_guest.store()

    store.add(vector(name))

    assert store.state.extension_secret == bytes.fromhex(expected["ext"])
    assert store.state.request_tags == (vector(name)[-16:],)
    shown = [(entry.index, entry.kind, entry.id.hex(), entry.length) for entry in store.list()]
    if expected["type"] == 1:
        assert shown == []
    else:
        assert shown == [(0, 2, expected["id"], 32)]
        assert store.association_secret(0).hex() == expected["secret"]


@pytest.mark.parametrize("name", RETRIEVABLE)
def test_a_retrievable_secret_is_taken_and_comes_back_as_its_kind_has_it(
    vector, manifest, vector_guest, name
):
    expected = next(entry for entry in manifest if entry["file"] == name)
    store = vector_guest.store()

    store.add(vector(name))

    (entry,) = store.list()
    secret = bytes.fromhex(expected["secret"])
    assert (entry.kind, entry.id.hex()) == (expected["type"], expected["id"])
    retrieved = store.retrieve(0)
    assert len(retrieved.value) == entry.length
    if expected["type"] == 3:
        assert retrieved.value == secret
    else:
        assert secret not in retrieved.value
        assert entry.length == len(secret) + 32


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_gets_its_code(vector, manifest, vector_guest, name):
    expected = next(entry["expect"] for entry in manifest if entry["file"] == name)
    code = re.search(r"0x[0-9a-f]{4}", expected)
    store = vector_guest.store()
    with pytest.raises(UvError) as refused:
        store.add(vector(name))
    assert code is not None
    assert refused.value.rc == int(code[0], 16)
    assert store.state == StoreState()


def test_the_secret_store_hash_is_over_tags_and_lock(vector, vector_guest):
    """Formats, C.6; the published values of nine requests are held in the tests of the wire."""
    store = vector_guest.store()
    names = [name for name in TAKEN if "simple" not in name]
    for name in names:
        store.add(vector(name))
    tags = b"".join(vector(name)[-16:] for name in names)
    assert store.secret_store_hash() == hashlib.sha512(tags + b"\x00").digest()
    store.lock()
    assert store.secret_store_hash() == hashlib.sha512(tags + b"\x01").digest()
