"""The owner's class: its requests say what was asked for, and only the right firmware can read them."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

import keyvisor_guest
from keyvisor_guest.owner import Owner, Request, SecretType, measure
from keyvisor_guest.wire.asrcb import open_request, parse
from keyvisor_guest.wire.asrcb_layout import Flag
from keyvisor_guest.wire.errors import CannotDecrypt, HostKeyUnusable, Unbuildable
from keyvisor_guest.wire.p521 import public_key_hash
from keyvisor_guest.wire.secret_ids import derive_extension_secret, id_from_name
from keyvisor_guest.wire.secret_kinds import SecretKind
from keyvisor_guest.wire.secret_values import elliptic_key
from keyvisor_guest.wire.user_data import unsigned, verify

IDENTITY = measure(b"a guest's definition")
HOST_KEY = ec.derive_private_key(0x1001, ec.SECP521R1())
BACKUP_KEY = ec.derive_private_key(0x1002, ec.SECP521R1())
USER_KEY = ec.derive_private_key(0x1003, ec.SECP521R1())
USER_PUBLIC_KEY = USER_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a host key")])
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = (
        builder.serial_number(7).not_valid_before(start).not_valid_after(start + datetime.timedelta(days=1))
    )
    return builder.sign(key, hashes.SHA512())


@pytest.fixture
def owner() -> Owner:
    return Owner([HOST_KEY.public_key()])


def opened(request: Request, key: ec.EllipticCurvePrivateKey = HOST_KEY):
    block = parse(request.data)
    return block.public, open_request(block, [key])


def test_the_class_is_where_the_architecture_says():
    assert keyvisor_guest.Owner is Owner


def test_an_association_request_says_what_was_asked_for(owner):
    made = owner.association_request(
        "payments", IDENTITY, cuid=b"\xc1" * 16, extension_secret=b"\xe1" * 32, flags=["disable-dump"]
    )
    public, contents = opened(made)
    assert (made.secret_name, made.secret_id) == ("payments", id_from_name("payments"))
    assert (public.secret.kind, public.secret.id) == (2, made.secret_id)
    assert (public.identity, public.cuid, public.flags) == (IDENTITY, b"\xc1" * 16, 1 << 63)
    assert (contents.secret, contents.extension_secret) == (made.reveal_secret(), b"\xe1" * 32)


def test_by_default_it_is_for_any_instance_with_no_extension_and_no_flag(owner):
    public, contents = opened(owner.association_request("payments", IDENTITY))
    assert (public.cuid, public.flags, contents.extension_secret) == (bytes(16), 0, bytes(32))


def test_secrets_are_random_unless_given(owner):
    secrets = {owner.association_request("payments", IDENTITY).reveal_secret() for _ in range(8)}
    assert len(secrets) == 8
    given = owner.association_request("payments", IDENTITY, secret=b"\x5e" * 32)
    assert opened(given)[1].secret == given.reveal_secret() == b"\x5e" * 32


def test_nothing_that_must_be_fresh_comes_twice(owner):
    """Equal content, and still every request has its own customer key, request key and IV (formats, A.2)."""
    blocks = [parse(owner.meta_request(IDENTITY).data) for _ in range(8)]
    assert len({block.public.customer_key for block in blocks}) == 8
    assert len({block.public.iv for block in blocks}) == 8
    assert len({block.public.slots[0].wrapped for block in blocks}) == 8


def test_a_meta_request_has_no_secret(owner):
    made = owner.meta_request(IDENTITY, extension_secret=b"\xe1" * 32, flags=[Flag.DISABLE_DUMP])
    public, contents = opened(made)
    assert (public.secret.kind, public.secret.length, public.secret.id, public.flags) == (1, 0, None, 1 << 63)
    assert contents.secret == b""
    assert contents.extension_secret == b"\xe1" * 32
    assert (made.secret_name, made.secret_id) == (None, None)
    with pytest.raises(Unbuildable, match="no secret"):
        made.reveal_secret()


@pytest.mark.parametrize(
    ("secret_type", "content", "kind", "secret"),
    [
        ("plain", b"0123456789", 3, b"\x00\x0a0123456789" + bytes(4)),
        (SecretType.AES, b"\xae" * 24, 5, b"\xae" * 24),
        ("aes-xts", bytes(range(32)), 7, bytes(range(32))),
        ("hmac-sha", b"\xac" * 128, 10, b"\xac" * 128),
    ],
)
def test_a_retrievable_request_says_what_was_asked_for(owner, secret_type, content, kind, secret):
    made = owner.retrievable_request("disk", IDENTITY, content, secret_type, cuid=b"\xc1" * 16)
    public, contents = opened(made)
    assert (public.secret.kind, public.secret.id, public.cuid) == (kind, id_from_name("disk"), b"\xc1" * 16)
    assert contents.secret == made.reveal_secret() == secret
    assert (made.kind, made.secret_name, made.secret_id) == (kind, "disk", id_from_name("disk"))


def test_a_retrievable_ec_key_comes_from_its_file(owner):
    key = ec.derive_private_key(0x77, ec.SECP384R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    made = owner.retrievable_request("tls", IDENTITY, pem, "ec", use_name=True)
    public, contents = opened(made)
    assert (public.secret.kind, public.secret.id) == (SecretKind.EC_P384, b"tls".ljust(32, b"\x00"))
    assert elliptic_key(SecretKind.EC_P384, contents.secret).private_numbers() == key.private_numbers()


def test_part3_T11_plaintext_goes_into_a_request_up_to_8190_bytes(owner):
    for size, sealed in ((0, 16), (8190, 8192)):
        made = owner.retrievable_request("file", IDENTITY, b"x" * size, "plain")
        assert len(opened(made)[1].secret) == sealed
    with pytest.raises(Unbuildable, match="at most 8190 bytes, not 8191"):
        owner.retrievable_request("file", IDENTITY, b"x" * 8191, "plain")


def test_a_request_that_updates_the_cck_has_an_id_of_zeros_and_no_name(owner):
    made = owner.update_cck_request(IDENTITY, b"\xcc" * 32, cck=b"\x0c" * 32)
    public, contents = opened(made)
    assert (public.secret.kind, public.secret.id, contents.secret) == (0x16, bytes(32), b"\xcc" * 32)
    assert contents.extension_secret == derive_extension_secret(b"\x0c" * 32, IDENTITY.header_tag)
    assert (made.kind, made.secret_name, made.secret_id) == (SecretKind.UPDATE_CCK, None, None)
    with pytest.raises(Unbuildable, match="32 bytes, not 31"):
        owner.update_cck_request(IDENTITY, bytes(31))


def requests_with(owner: Owner, **options) -> list[Request]:
    """One request of each sort."""
    return [
        owner.association_request("payments", IDENTITY, **options),
        owner.retrievable_request("disk", IDENTITY, bytes(32), "aes", **options),
        owner.meta_request(IDENTITY, **options),
        owner.update_cck_request(IDENTITY, bytes(32), **options),
    ]


def test_every_request_can_have_user_data(owner):
    for made in requests_with(owner, user_data=b"for payments-1"):
        assert unsigned(made.data) == b"for payments-1"
        opened(made)


def test_part3_T4_every_request_can_be_signed(owner, tmp_path):
    pem = USER_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "user.pem").write_bytes(pem)
    for key in (USER_KEY, pem, tmp_path / "user.pem", str(tmp_path / "user.pem")):
        for made in requests_with(owner, user_data=b"for payments-1", user_signing_key=key):
            assert verify(made.data, USER_PUBLIC_KEY) == b"for payments-1"
            opened(made)
    for made in requests_with(owner, user_signing_key=USER_KEY):
        assert verify(made.data, USER_PUBLIC_KEY) == b""


def test_a_signing_key_that_is_none_is_refused_and_the_file_is_named(owner, tmp_path):
    (tmp_path / "user.pem").write_bytes(b"something else")
    with pytest.raises(Unbuildable, match=r"user\.pem`: the user signing key: not a private key"):
        owner.meta_request(IDENTITY, user_signing_key=tmp_path / "user.pem")


def test_the_tag_is_that_of_the_request(owner):
    made = owner.meta_request(IDENTITY)
    assert made.tag == made.data[-16:] == parse(made.data).tag


def test_an_extension_secret_derived_from_a_cck_belongs_to_the_image(owner):
    _, contents = opened(owner.meta_request(IDENTITY, cck=b"\x0c" * 32))
    assert contents.extension_secret == derive_extension_secret(b"\x0c" * 32, IDENTITY.header_tag)


def test_the_name_itself_can_be_the_id(owner):
    assert owner.association_request("payments", IDENTITY, use_name=True).secret_id == b"payments" + bytes(24)


def test_every_host_key_can_read_it_and_nobody_else():
    owner = Owner([HOST_KEY.public_key(), certificate(BACKUP_KEY).public_bytes(Encoding.DER)])
    made = owner.association_request("payments", IDENTITY)
    assert opened(made, HOST_KEY)[1] == opened(made, BACKUP_KEY)[1]
    with pytest.raises(CannotDecrypt):
        opened(made, ec.derive_private_key(0x6666, ec.SECP521R1()))


def test_host_keys_come_as_keys_documents_and_paths(tmp_path):
    pem, der = (certificate(HOST_KEY).public_bytes(encoding) for encoding in (Encoding.PEM, Encoding.DER))
    path = tmp_path / "host.crt"
    path.write_bytes(pem)
    owner = Owner([HOST_KEY.public_key(), pem, der, path, str(path)])
    assert owner.host_key_hashes == (public_key_hash(HOST_KEY.public_key()),) * 5


def test_what_is_no_host_key_is_refused_and_the_file_is_named(tmp_path):
    path = tmp_path / "other.crt"
    path.write_bytes(b"something else")
    with pytest.raises(HostKeyUnusable, match=r"other\.crt"):
        Owner([path])
    with pytest.raises(HostKeyUnusable, match="secp256r1"):
        Owner([ec.derive_private_key(7, ec.SECP256R1()).public_key()])
    with pytest.raises(FileNotFoundError):
        Owner([tmp_path / "absent.crt"])
    with pytest.raises(Unbuildable, match="1 to 255 host keys, not 0"):
        Owner([]).meta_request(IDENTITY)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"secret": bytes(31)}, "32 bytes, not 31"),
        ({"extension_secret": bytes(31)}, "extension secret has 32 bytes"),
        ({"cck": bytes(31)}, "communication key has 32 bytes"),
        ({"cck": bytes(32), "extension_secret": bytes(32)}, "not both"),
        ({"cuid": bytes(15)}, "CUID has 16 bytes"),
        ({"cuid": bytes(16)}, "binds to no instance"),
        ({"flags": ["enable-dump"]}, "unknown flag `enable-dump`: there is `disable-dump`"),
        ({"user_data": bytes(513)}, "at most 512 bytes, not 513"),
        ({"user_data": bytes(257), "user_signing_key": USER_KEY}, "EC P-521 has at most 256 bytes, not 257"),
        ({"user_signing_key": b"no key"}, "user signing key: not a private key"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(owner, options, said):
    with pytest.raises(Unbuildable, match=said):
        owner.association_request("payments", IDENTITY, **options)


def test_a_type_of_secret_that_is_none_is_refused(owner):
    with pytest.raises(Unbuildable, match="unknown type of secret `rsa`: there is `plain`, `aes`"):
        owner.retrievable_request("disk", IDENTITY, bytes(32), "rsa")


def test_the_secret_is_shown_only_when_asked_for(owner):
    secret = b"never shown, not in any way, 32b"[:32]
    made = owner.association_request("payments", IDENTITY, secret=secret, extension_secret=secret)
    others = [
        owner.retrievable_request("file", IDENTITY, secret, "plain", cck=secret),
        owner.update_cck_request(IDENTITY, secret),
    ]
    shown = repr([made, *others]) + str(made) + repr(owner)
    assert "never shown" not in shown
    assert all(secret not in one.data for one in (made, *others))
