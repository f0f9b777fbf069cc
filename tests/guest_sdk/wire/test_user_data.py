"""User data: what its owner signed is taken, and nothing else; in every other case one error says why."""

from __future__ import annotations

import datetime
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from keyvisor_guest.wire.asrcb import Draft, FreshKeys, build, open_request, parse
from keyvisor_guest.wire.asrcb_layout import NO_USER_DATA, TAG_LENGTH, UserData, UserDataKind
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.errors import CannotDecrypt, Unbuildable, UserDataUnverified
from keyvisor_guest.wire.key_files import MAX_KEY_FILE
from keyvisor_guest.wire.secret_ids import id_from_name
from keyvisor_guest.wire.secret_kinds import SecretKind
from keyvisor_guest.wire.user_data import (
    ROWS,
    SigningKey,
    carried,
    policy_reference,
    prepare,
    read_signing_key,
    sign,
    unsigned,
    verify,
)

IDENTITY = BootIdentity(b"\xa1" * 64, b"\xa2" * 64, b"\xa3" * 64, b"\xa4" * 16)
AREA = 0x218
SIGNED = (UserDataKind.EC_P521, UserDataKind.RSA_2048, UserDataKind.RSA_3072)

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="session")
def user_keys() -> dict[UserDataKind, SigningKey]:
    return {
        UserDataKind.EC_P521: ec.derive_private_key(0x5005, ec.SECP521R1()),
        UserDataKind.RSA_2048: rsa.generate_private_key(65537, 2048),
        UserDataKind.RSA_3072: rsa.generate_private_key(65537, 3072),
    }


@pytest.fixture(scope="session")
def made(customer_key, host_key):
    """Builds a request with this user data; each is for an association secret of this name."""

    def build_one(data: bytes | None, key: SigningKey | None = None, name: str = "payments") -> bytes:
        prepared = prepare(data, key)
        draft = Draft(SecretKind.ASSOCIATION, IDENTITY, id_from_name(name), b"\x5e" * 32, user_data=prepared)
        signer = None if key is None else partial(sign, prepared, key=key)
        fresh = FreshKeys(customer_key, b"\x0a" * 32, bytes(12))
        return build(draft, fresh, [host_key.public_key()], signer)

    return build_one


def public_pem(key: SigningKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate(key: SigningKey, encoding: Encoding = Encoding.PEM) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a user")])
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(9).not_valid_before(start)
    return (
        builder.not_valid_after(start + datetime.timedelta(1))
        .sign(key, hashes.SHA512())
        .public_bytes(encoding)
    )


def flipped(request: bytes, at: int, bits: int = 1) -> bytes:
    return request[:at] + bytes([request[at] ^ bits]) + request[at + 1 :]


def with_area(request: bytes, kind: int, area: bytes) -> bytes:
    """What somebody without any key can make of a request: the tag is wrong, and a guest cannot see it."""
    changed = request[:AREA] + area + request[AREA + 512 :]
    return changed[:6] + kind.to_bytes(2, "big") + changed[8:]


def test_the_table_is_that_of_the_format():
    """Formats, A.6: data and signature fill the 512 bytes, where the signature has one length."""
    assert set(ROWS) == set(UserDataKind)
    assert {row.kind: row.capacity for row in ROWS.values()} == {0: 0, 1: 512, 2: 256, 3: 256, 4: 128}
    assert all(ROWS[kind].capacity + ROWS[kind].max_signature == 512 for kind in (1, 3, 4))
    assert len({row.title for row in ROWS.values()}) == len(ROWS)


# What is right


@pytest.mark.parametrize("kind", SIGNED)
def test_part3_T4_what_each_kind_of_key_signs_is_verified(made, user_keys, host_key, kind):
    key, full = user_keys[kind], bytes(range(1, 129)) * (ROWS[kind].capacity // 128)
    for data in (b"", b"for payments-1", full):
        request = made(data, key)
        assert parse(request).public.user_data.kind == kind
        assert verify(request, public_pem(key)) == data
        assert open_request(parse(request), [host_key]).secret == b"\x5e" * 32


def test_part3_T4_the_user_is_named_by_a_certificate_or_a_public_key_in_pem_or_der(made, user_keys):
    key = user_keys[UserDataKind.EC_P521]
    request = made(b"data", key)
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for named in (public_pem(key), der, certificate(key), certificate(key, Encoding.DER)):
        assert verify(request, named) == b"data"


def test_where_data_and_signature_stand(made, user_keys):
    """Offsets of formats, A.6."""
    area = parse(made(b"data", user_keys[UserDataKind.EC_P521])).public.user_data.area
    length = int.from_bytes(area[0x190:0x192], "big")
    assert (area[:256], area[0x100]) == (b"data".ljust(256, b"\x00"), 0x30)  # DER: a SEQUENCE
    assert area[0x101:0x103] == bytes([0x81, length - 3])
    assert not any(area[0x100 + length : 0x190] + area[0x192:])
    for kind, at in ((UserDataKind.RSA_2048, 0x100), (UserDataKind.RSA_3072, 0x80)):
        area = parse(made(b"data", user_keys[kind])).public.user_data.area
        assert (area[:4], any(area[4:at]), any(area[at:])) == (b"data", False, True)


@pytest.mark.parametrize("kind", SIGNED)
def test_the_signature_is_over_the_request_without_signature_and_tag(made, user_keys, kind):
    """Held against the description, not against `verify`."""
    key = user_keys[kind]
    request = made(b"data", key)
    area = request[AREA : AREA + 512]
    at = ROWS[kind].capacity
    message = request[: AREA + at] + bytes(512 - at) + request[AREA + 512 : -TAG_LENGTH]
    if kind is UserDataKind.EC_P521:
        length = int.from_bytes(area[0x190:0x192], "big")
        key.public_key().verify(area[at : at + length], message, ec.ECDSA(hashes.SHA512()))
    else:
        longest = PSS(MGF1(hashes.SHA512()), PSS.MAX_LENGTH)
        key.public_key().verify(area[at:], message, longest, hashes.SHA512())


@pytest.mark.parametrize("salt", [0, 20, 64])
def test_any_length_of_the_pss_salt_is_taken(made, user_keys, salt):
    key = user_keys[UserDataKind.RSA_2048]
    request = made(b"data", key)
    message = with_area(request, 3, b"data".ljust(512, b"\x00"))[:-TAG_LENGTH]
    signature = key.sign(message, PSS(MGF1(hashes.SHA512()), salt), hashes.SHA512())
    assert verify(with_area(request, 3, b"data".ljust(256, b"\x00") + signature), public_pem(key)) == b"data"


def test_unsigned_user_data_is_read_without_a_key(made):
    assert unsigned(made(b"\x00data\x00\x00")) == b"\x00data"
    assert unsigned(made(b"")) == b""
    assert unsigned(made(b"x" * 512)) == b"x" * 512
    assert (carried(made(None)), carried(made(b""))) == (UserDataKind.NONE, UserDataKind.UNSIGNED)


def test_part3_T4_the_vectors_verify(vectors):
    customer = public_pem(vectors.keys["customer"])
    assert verify(vectors.read("derived/user/ec521"), customer) == b"\x56" * 256
    assert unsigned(vectors.read("derived/user/unsigned")) == b"\x56" * 387
    for name, kind in (("rsa2048", "RSA-2048"), ("rsa3072", "RSA-3072"), ("rsa2048key.pub", "RSA-2048")):
        user_key = vectors.read(f"keys/{name}.{'pem' if 'pub' in name else 'crt'}")
        with pytest.raises(UserDataUnverified, match=f"signed with EC P-521, the key given is {kind}"):
            verify(vectors.read("derived/user/ec521"), user_key)


def test_part3_T4_a_vector_is_refused_at_every_flipped_byte(vectors):
    request, customer = vectors.read("derived/user/ec521"), public_pem(vectors.keys["customer"])
    for at in range(len(request) - TAG_LENGTH):
        with pytest.raises(UserDataUnverified):
            verify(flipped(request, at), customer)


# What is not


@pytest.mark.parametrize("kind", SIGNED)
def test_part3_T4_every_flipped_byte_before_the_tag_is_refused(made, user_keys, kind):
    """Data, signature, what is between and behind them, header, slots, secret header and ciphertext."""
    key = user_keys[kind]
    request, user_key = made(b"for payments-1", key), public_pem(key)
    for at in range(len(request) - TAG_LENGTH):
        with pytest.raises(UserDataUnverified):
            verify(flipped(request, at, 0x80 >> at % 8), user_key)


def test_part3_T4_a_flipped_tag_is_for_the_firmware_to_see(made, user_keys, host_key):
    key = user_keys[UserDataKind.EC_P521]
    changed = flipped(made(b"data", key), -1 % 1416)
    assert verify(changed, public_pem(key)) == b"data"
    with pytest.raises(CannotDecrypt):
        open_request(parse(changed), [host_key])


@pytest.mark.parametrize("kind", SIGNED)
def test_part3_T4_a_stripped_signature_is_refused(made, user_keys, kind):
    key = user_keys[kind]
    request, user_key = made(b"data", key), public_pem(key)
    area = request[AREA : AREA + 512]
    bare = area[: ROWS[kind].capacity].ljust(512, b"\x00")
    for changed, said in (
        (with_area(request, 1, bare), "not signed: anybody can have made it"),
        (with_area(request, 1, area), "not signed"),
        (with_area(request, 0, bytes(512)), "no user data: nobody signed it"),
        (with_area(request, 0, area), "no user data"),
        (with_area(request, kind, bare), "signature"),
    ):
        with pytest.raises(UserDataUnverified, match=said):
            verify(changed, user_key)


@pytest.mark.parametrize("kind", SIGNED)
def test_part3_T4_a_signature_holds_for_its_own_request_only(made, user_keys, kind):
    """Two requests of one user with equal data: their signatures and areas cannot be exchanged."""
    key = user_keys[kind]
    first, second = made(b"data", key), made(b"data", key, name="other")
    assert verify(first, public_pem(key)) == verify(second, public_pem(key)) == b"data"
    with pytest.raises(UserDataUnverified, match="does not hold"):
        verify(with_area(first, kind, second[AREA : AREA + 512]), public_pem(key))


def test_part3_T4_another_users_key_is_refused(made, user_keys):
    others = {
        UserDataKind.EC_P521: ec.derive_private_key(0x6006, ec.SECP521R1()),
        UserDataKind.RSA_2048: rsa.generate_private_key(65537, 2048),
    }
    for kind, other in others.items():
        with pytest.raises(UserDataUnverified, match="another key made it, or the request was changed"):
            verify(made(b"data", user_keys[kind]), certificate(other))


def test_part3_T4_another_kind_of_key_is_refused(made, user_keys):
    for kind, key in user_keys.items():
        for other_kind, other in user_keys.items():
            if other_kind is not kind:
                with pytest.raises(UserDataUnverified, match="give the signer's"):
                    verify(made(b"data", key), public_pem(other))
    p256 = public_pem(ec.derive_private_key(5, ec.SECP256R1()))
    with pytest.raises(UserDataUnverified, match="the key given is EC secp256r1"):
        verify(made(b"data", user_keys[UserDataKind.EC_P521]), p256)


def test_part3_T4_what_is_no_key_is_refused(made, user_keys):
    key = user_keys[UserDataKind.EC_P521]
    request = made(b"data", key)
    for nothing in (b"", b"something", private_pem(key), certificate(key)[:200], bytes(MAX_KEY_FILE + 1)):
        with pytest.raises(UserDataUnverified, match="the user's key: "):
            verify(request, nothing)


def test_part3_T4_unsigned_and_signed_are_not_taken_for_each_other(made, user_keys):
    with pytest.raises(UserDataUnverified, match="signed with EC P-521: give the signer's certificate"):
        unsigned(made(b"data", user_keys[UserDataKind.EC_P521]))
    with pytest.raises(UserDataUnverified, match="no user data"):
        unsigned(made(None))


@pytest.mark.parametrize("length", [0, 140, 0xFFFF])
def test_a_length_that_no_signature_has_is_refused(made, user_keys, length):
    key = user_keys[UserDataKind.EC_P521]
    request = made(b"data", key)
    area = bytearray(request[AREA : AREA + 512])
    area[0x190:0x192] = length.to_bytes(2, "big")
    with pytest.raises(UserDataUnverified, match=f"a signature of {length} bytes"):
        verify(with_area(request, 2, bytes(area)), public_pem(key))


@pytest.mark.parametrize("at", [0x18B, 0x18F, 0x192, 0x1FF])
def test_bytes_behind_an_ec_signature_are_refused(made, user_keys, at):
    """No signature covers them, so nothing could be hidden there anyway; still they are none of the format's."""
    key = user_keys[UserDataKind.EC_P521]
    with pytest.raises(UserDataUnverified, match="bytes behind its signature"):
        verify(flipped(made(b"data", key), AREA + at), public_pem(key))


@few
@given(data=st.binary(max_size=1500))
@example(b"asrcbM")
def test_part3_T14_any_bytes_end_in_one_error(user_keys, data):
    for read in (
        carried,
        unsigned,
        lambda request: verify(request, public_pem(user_keys[UserDataKind.EC_P521])),
    ):
        with pytest.raises(UserDataUnverified):
            read(data)


@few
@given(kind=st.integers(0, 5), area=st.binary(min_size=512, max_size=512), named=st.sampled_from(SIGNED))
def test_part3_T14_any_user_data_ends_in_one_error(made, user_keys, kind, area, named):
    with pytest.raises(UserDataUnverified):
        verify(with_area(made(b"data"), kind, area), public_pem(user_keys[named]))


@few
@given(
    at=st.integers(0, 0x4B8 + 80 + 48 + 64 + 15),
    size=st.integers(0, 8),
    put=st.binary(max_size=8),
    cut=st.booleans(),
)
def test_part3_T14_changed_lengths_and_cuts_end_in_one_error(made, user_keys, at, size, put, cut):
    key = user_keys[UserDataKind.EC_P521]
    request = made(b"data", key)
    changed = request[:at] if cut else request[:at] + put + request[at + size :]
    if changed[:-TAG_LENGTH] == request[:-TAG_LENGTH]:
        assert verify(changed, public_pem(key)) == b"data"
    else:
        with pytest.raises(UserDataUnverified):
            verify(changed, public_pem(key))


# Making it


def test_what_goes_into_a_draft(user_keys):
    key = user_keys[UserDataKind.RSA_3072]
    assert prepare(None) == NO_USER_DATA
    assert prepare(b"data") == UserData(UserDataKind.UNSIGNED, b"data".ljust(512, b"\x00"))
    assert prepare(None, key) == prepare(b"", key) == UserData(UserDataKind.RSA_3072, bytes(512))


def test_part3_T11_user_data_has_room_for_so_much_and_not_a_byte_more(user_keys):
    for kind in (UserDataKind.UNSIGNED, *SIGNED):
        key, room = user_keys.get(kind), ROWS[kind].capacity
        assert prepare(b"x" * room, key).area.rstrip(b"\x00") == b"x" * room
        with pytest.raises(Unbuildable, match=f"at most {room} bytes, not {room + 1}: shorten it"):
            prepare(b"x" * (room + 1), key)


def test_signing_keys_come_as_pem_and_der(user_keys):
    for key in user_keys.values():
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        traditional = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        for content in (private_pem(key), der, traditional):
            assert read_signing_key(content).private_numbers() == key.private_numbers()


def test_what_cannot_sign_is_refused(user_keys):
    key = user_keys[UserDataKind.EC_P521]
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a passphrase"))
    for content, said in (
        (private_pem(rsa.generate_private_key(65537, 4096)), "not RSA-4096"),
        (private_pem(ec.derive_private_key(5, ec.SECP384R1())), "not EC secp384r1"),
        (private_pem(ed25519.Ed25519PrivateKey.generate()), "not Ed25519"),
        (locked, "has a passphrase: give one without"),
        (public_pem(key), "not a private key, PEM or DER"),
        (b"", "not a private key"),
        (bytes(MAX_KEY_FILE + 1), "at most 65536 bytes"),
    ):
        with pytest.raises(Unbuildable, match=said):
            read_signing_key(content)
    with pytest.raises(Unbuildable, match="user data is signed with"):
        prepare(b"data", ec.derive_private_key(5, ec.SECP256R1()))


def test_a_policy_reference_is_a_digest_and_a_path():
    assert policy_reference(b"\xd1" * 32, "etc/policy.yaml") == b"\xd1" * 32 + b"etc/policy.yaml\x00"
    assert policy_reference(b"\xd1" * 32, "x" * 480) == b"\xd1" * 32 + b"x" * 479 + b"\x00"
    assert prepare(policy_reference(bytes(32), "x" * 4000)).kind is UserDataKind.UNSIGNED
    for digest, path, said in (
        (bytes(64), "x", "32 bytes, not 64"),
        (bytes(32), "", "not empty"),
        (bytes(32), "\0", "NUL"),
    ):
        with pytest.raises(Unbuildable, match=said):
            policy_reference(digest, path)
