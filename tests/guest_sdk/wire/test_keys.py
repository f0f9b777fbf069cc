"""P-521 points, key slots and host-key documents."""

import datetime
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from keyvisor_guest.wire.errors import CannotDecrypt, HostKeyUnusable, Malformed
from keyvisor_guest.wire.host_key_documents import MAX_DOCUMENT, unverified_host_key
from keyvisor_guest.wire.key_slots import addressed_key, key_encryption_key, unwrap_for, unwrap_slot, wrap_for
from keyvisor_guest.wire.p521 import PRIME, decode_point, encode_point, public_key_hash, shared_secret


def test_a_point_comes_back(host_key):
    public = host_key.public_key()
    point = encode_point(public)
    assert len(point) == 160
    assert point[:14] == point[80:94] == bytes(14)
    assert decode_point(point) == public
    assert public_key_hash(public) == hashlib.sha256(point).digest()


def test_what_is_no_point_is_refused(host_key):
    numbers = host_key.public_key().public_numbers()
    for x, y in ((numbers.x, numbers.y ^ 1), (0, 0), (1, 1)):
        with pytest.raises(Malformed, match="not on the curve"):
            decode_point(x.to_bytes(80, "big") + y.to_bytes(80, "big"))
    for point in (b"", bytes(159), bytes(161)):
        with pytest.raises(Malformed, match="160 bytes"):
            decode_point(point)


def test_a_point_has_one_encoding(host_key):
    """The library reduces coordinates modulo the prime; taken as they are, one key would have several names."""
    numbers = host_key.public_key().public_numbers()
    for x, y in (
        (numbers.x + PRIME, numbers.y),
        (numbers.x, numbers.y + PRIME),
        (numbers.x + (1 << 600), numbers.y),
    ):
        with pytest.raises(Malformed, match="larger than P-521"):
            decode_point(x.to_bytes(80, "big") + y.to_bytes(80, "big"))


def test_the_shared_secret_keeps_its_leading_zeros():
    base = ec.derive_private_key(1, ec.SECP521R1())
    # A key whose point has an x-coordinate below 2^512: found by counting, and it stays so.
    small = next(
        key
        for key in (ec.derive_private_key(number, ec.SECP521R1()) for number in range(2, 4000))
        if key.public_key().public_numbers().x < 1 << 512
    )
    secret = shared_secret(base, small.public_key())
    assert len(secret) == 66
    assert secret[0] == secret[1] == 0
    assert secret == shared_secret(small, base.public_key())


def test_every_slot_wraps_the_same_key(customer_key, host_key, other_key):
    key = bytes(range(32))
    slots = wrap_for([host_key.public_key(), other_key.public_key()], customer_key, key)
    point = encode_point(customer_key.public_key())
    assert [len(slot.encode()) for slot in slots] == [80, 80]
    assert slots[0].wrapped != slots[1].wrapped
    for held in (host_key, other_key):
        assert unwrap_for([held], point, slots) == key
    assert unwrap_for([other_key, host_key], point, slots) == key


def test_the_key_that_a_slot_is_addressed_to_is_named(customer_key, host_key, other_key):
    slots = wrap_for([host_key.public_key(), other_key.public_key()], customer_key, bytes(32))
    first, second = (public_key_hash(key.public_key()) for key in (host_key, other_key))
    assert addressed_key([other_key, host_key], slots) == first
    assert addressed_key([other_key], slots) == second
    with pytest.raises(CannotDecrypt, match="no key slot"):
        addressed_key([customer_key], slots)


def test_a_slot_does_not_open_with_another_key(customer_key, host_key, other_key):
    (slot,) = wrap_for([host_key.public_key()], customer_key, bytes(32))
    kek = key_encryption_key(shared_secret(customer_key, other_key.public_key()))
    with pytest.raises(CannotDecrypt):
        unwrap_slot(slot, kek)


def _certificate(key, *, signer=None) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a host key")])
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
    )
    signer = signer or key
    return builder.sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA512())


def test_a_host_key_document_is_read_as_pem_and_as_der(host_key):
    certificate = _certificate(host_key)
    for encoding in (Encoding.PEM, Encoding.DER):
        assert unverified_host_key(certificate.public_bytes(encoding)) == host_key.public_key()


def test_the_published_host_key_documents(vectors):
    for name in ("host", "host2"):
        assert unverified_host_key(vectors.read(f"keys/{name}.crt")) == vectors.keys[name].public_key()
    with pytest.raises(HostKeyUnusable, match="not one of secp521r1"):
        unverified_host_key(vectors.read("keys/rsa2048.crt"))


def test_other_documents_are_refused_and_say_why(host_key):
    pem = _certificate(host_key).public_bytes(Encoding.PEM)
    p384 = _certificate(ec.derive_private_key(7, ec.SECP384R1())).public_bytes(Encoding.PEM)
    ed = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    for document, said in (
        (b"", "not an X.509 certificate"),
        (b"hello", "not an X.509 certificate"),
        (pem[:-60], "not an X.509 certificate"),
        (pem + pem, "2 certificates"),
        (p384, "secp384r1"),
        (_certificate(ed).public_bytes(Encoding.DER), "not one of secp521r1"),
        (bytes(MAX_DOCUMENT + 1), "at most 65536 bytes"),
    ):
        with pytest.raises(HostKeyUnusable, match=said):
            unverified_host_key(document)
