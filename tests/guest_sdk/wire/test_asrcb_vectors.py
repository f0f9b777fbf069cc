"""Bytes of others: what IBM's own unit tests made, and the sample derived from it."""

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_guest.wire.asrcb import (
    Contents,
    Draft,
    FreshKeys,
    build,
    open_request,
    parse,
    request_key,
    seal,
    unseal,
)
from keyvisor_guest.wire.asrcb_layout import ANY_INSTANCE, UserData
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.errors import CannotDecrypt, Malformed
from keyvisor_guest.wire.key_slots import SLOT_LENGTH, KeySlot, key_encryption_key, unwrap_slot, wrap_for
from keyvisor_guest.wire.p521 import encode_point, shared_secret
from keyvisor_guest.wire.secret_ids import NO_EXTENSION, derive_extension_secret, id_from_name
from keyvisor_guest.wire.secret_kinds import SecretKind
from keyvisor_guest.wire.user_data import prepare

READABLE = (
    "derived/same/assoc_none_default_cuid_one",
    "derived/same/null_simple_default_cuid_one",
    "derived/same/null_none_default_ncuid_one",
    "derived/slots/ours_is_third",
    "derived/retr/plain_10",
    "derived/retr/aes256",
    "derived/retr/hmac256",
    "derived/retr/p256",
    "derived/user/unsigned",
    "derived/user/ec521",
    "derived/bad/boot_tags",  # bad for its guest, not for its form
)
UPSTREAM = ("upstream/assoc_simple_default_cuid_one", "upstream/null_none_default_cuid_seven")
REQUEST_KEY = b"\x17" * 32
IV = b"\x55" * 12
CUID = b"\x42" * 16


def test_every_vector_of_the_manifest_has_a_test(vectors):
    bad = {f"derived/bad/{name}" for name in ("tag", "version_0200", "nks_0", "flag_bit_1")}
    assert {entry["file"] for entry in vectors.manifest["vectors"]} == {*READABLE, *bad}


@pytest.mark.parametrize("name", READABLE)
def test_a_vector_opens_to_what_the_manifest_says(vectors, name):
    expected = vectors.entry(name)
    data = vectors.read(name)
    assert (len(data), hashlib.sha256(data).hexdigest()) == (expected["size"], expected["sha256"])

    block = parse(data)
    contents = open_request(block, [vectors.keys["host"]])

    public = block.public
    assert public.secret.kind == expected["type"]
    assert (public.secret.id and public.secret.id.hex()) == expected["id"]
    assert contents == Contents(bytes.fromhex(expected["secret"]), bytes.fromhex(expected["ext"]))
    assert public.cuid.hex() == expected["cuid"]
    assert (public.flags, public.user_data.kind) == (expected["flags"], expected["user_kind"])
    assert len(public.slots) == expected["nks"]
    assert public.customer_key == vectors.read("keys/public_cust.bin")


@pytest.mark.parametrize("name", READABLE)
def test_a_vector_is_written_back_byte_for_byte(vectors, name):
    data = vectors.read(name)
    block = parse(data)
    key = request_key(block, [vectors.keys["host"]])
    assert key == REQUEST_KEY
    assert seal(block.public, key, unseal(block, key)) == data


@pytest.mark.parametrize("name", [name for name in READABLE if "slots" not in name and "user" not in name])
def test_a_vector_is_built_from_its_inputs_byte_for_byte(vectors, name):
    expected = vectors.entry(name)
    block = parse(vectors.read(name))
    draft = Draft(
        SecretKind(expected["type"]),
        block.public.identity,
        bytes.fromhex(expected["id"]) if expected["id"] else None,
        bytes.fromhex(expected["secret"]),
        bytes.fromhex(expected["ext"]),
        bytes.fromhex(expected["cuid"]),
        expected["flags"],
    )
    fresh = FreshKeys(vectors.keys["customer"], REQUEST_KEY, IV)
    assert build(draft, fresh, [vectors.keys["host"].public_key()]) == vectors.read(name)


def _user_data_draft(block) -> Draft:
    return Draft(SecretKind.NULL, block.public.identity, cuid=CUID, user_data=prepare(b"\x56" * 387))


def test_a_vector_with_user_data_is_built_from_its_inputs_byte_for_byte(vectors):
    data = vectors.read("derived/user/unsigned")
    fresh = FreshKeys(vectors.keys["customer"], REQUEST_KEY, IV)
    assert build(_user_data_draft(parse(data)), fresh, [vectors.keys["host"].public_key()]) == data


def test_a_signed_vector_is_built_byte_for_byte_around_its_signature(vectors):
    """A signature is random: the vector's own is put where the builder asks for one, over the bytes that it gives."""
    data = vectors.read("derived/user/ec521")
    block, customer = parse(data), vectors.keys["customer"]
    draft = replace(_user_data_draft(block), user_data=prepare(b"\x56" * 256, customer))

    def sign(message: bytes) -> UserData:
        area = block.public.user_data.area
        length = int.from_bytes(area[0x190:0x192], "big")
        customer.public_key().verify(area[0x100 : 0x100 + length], message, ec.ECDSA(hashes.SHA512()))
        return block.public.user_data

    fresh = FreshKeys(customer, REQUEST_KEY, IV)
    assert build(draft, fresh, [vectors.keys["host"].public_key()], sign) == data


def test_the_slots_of_others_are_passed_over(vectors):
    """Slots: foreign, host2, ours; the keys we hold decide, not the place."""
    block = parse(vectors.read("derived/slots/ours_is_third"))
    for held in ("host", "host2"):
        assert request_key(block, [vectors.keys[held]]) == REQUEST_KEY
    with pytest.raises(CannotDecrypt, match="no key slot"):
        request_key(block, [vectors.keys["customer"]])


def test_the_bad_vectors_are_refused(vectors):
    for name, said in (
        ("version_0200", "version 0x200"),
        ("nks_0", "no host key"),
        ("flag_bit_1", "unknown flags"),
    ):
        with pytest.raises(Malformed, match=said):
            parse(vectors.read(f"derived/bad/{name}"))
    with pytest.raises(CannotDecrypt):
        open_request(parse(vectors.read("derived/bad/tag")), [vectors.keys["host"]])


def _upstream_kek(vectors) -> bytes:
    return key_encryption_key(shared_secret(vectors.keys["customer"], vectors.upstream_host()))


def test_the_key_encryption_key_of_the_upstream_set(vectors):
    assert _upstream_kek(vectors).hex() == "753277558f3b6003419ef249ae3c4b55aad77d09d97fdd1fc88fd8f0cf22f149"


@pytest.mark.parametrize("name", UPSTREAM)
def test_an_upstream_request_opens_and_is_written_back(vectors, vector_identity, name):
    data = vectors.read(name)
    block = parse(data)
    assert block.public.identity == vector_identity
    for slot in block.public.slots:
        assert unwrap_slot(slot, _upstream_kek(vectors)) == REQUEST_KEY
    assert seal(block.public, REQUEST_KEY, unseal(block, REQUEST_KEY)) == data


def test_an_upstream_key_slot_is_wrapped_byte_for_byte(vectors):
    (slot,) = wrap_for([vectors.upstream_host()], vectors.keys["customer"], REQUEST_KEY)
    assert slot in parse(vectors.read("upstream/null_none_default_cuid_seven")).public.slots


def test_the_slot_of_an_image_header_opens_the_same_way(vectors):
    header = vectors.read("upstream/pvimg_builder_test.hdr")
    assert header[0x40:0xE0] == encode_point(vectors.keys["customer"].public_key())
    slot = KeySlot.read(Cursor(header[0x1A0 : 0x1A0 + SLOT_LENGTH]))
    assert len(unwrap_slot(slot, _upstream_kek(vectors))) == 32


def test_the_nine_upstream_requests_and_their_secret_store_hash(vectors, vector_identity: BootIdentity):
    """Seven of the nine are not at hand as files: their tags, made here, hash to the published values (formats, C.6)."""
    host, fresh = vectors.upstream_host(), FreshKeys(vectors.keys["customer"], REQUEST_KEY, IV)
    simple, derived = b"\x17" * 32, derive_extension_secret(bytes(32), vector_identity.header_tag)
    secret_id = id_from_name("add_secret_request")
    assert secret_id.hex().startswith("70dc758d")

    def null(extension: bytes = NO_EXTENSION, cuid: bytes = CUID, flags: int = 0, slots: int = 1) -> bytes:
        draft = Draft(SecretKind.NULL, vector_identity, extension_secret=extension, cuid=cuid, flags=flags)
        return build(draft, fresh, [host] * slots)

    def association(extension: bytes = NO_EXTENSION) -> bytes:
        draft = Draft(SecretKind.ASSOCIATION, vector_identity, secret_id, b"\x11" * 32, extension, CUID)
        return build(draft, fresh, [host])

    seven = null(slots=7)
    assert seven == vectors.read("upstream/null_none_default_cuid_seven")
    assert association(simple) == vectors.read("upstream/assoc_simple_default_cuid_one")
    tags = b"".join(
        request[-16:]
        for request in (
            association(derived),
            association(simple),
            null(),
            null(cuid=ANY_INSTANCE),
            null(simple),
            association(),
            null(derived),
            seven,
            null(flags=1 << 63),
        )
    )
    assert hashlib.sha512(tags + b"\x01").hexdigest().startswith("d048702b")
    assert hashlib.sha512(tags + b"\x00").hexdigest().startswith("51ce62af")
