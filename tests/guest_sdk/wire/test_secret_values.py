"""From key files to secrets and back: every kind, its lengths and a byte more and less."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.wire.errors import Malformed, Unbuildable
from keyvisor_guest.wire.key_files import MAX_KEY_FILE
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind
from keyvisor_guest.wire.secret_values import (
    MAX_PLAINTEXT,
    SecretType,
    SecretValue,
    elliptic_key,
    encode,
    max_content,
    plaintext_payload,
)

RAW = {
    SecretType.AES: {16: SecretKind.AES_128, 24: SecretKind.AES_192, 32: SecretKind.AES_256},
    SecretType.AES_XTS: {32: SecretKind.AES_XTS_128, 64: SecretKind.AES_XTS_256},
    SecretType.HMAC_SHA: {64: SecretKind.HMAC_SHA_256, 128: SecretKind.HMAC_SHA_512},
}
ELLIPTIC = {
    SecretKind.EC_P256: ec.derive_private_key(0x1234587, ec.SECP256R1()),
    SecretKind.EC_P384: ec.derive_private_key(0x1234588, ec.SECP384R1()),
    SecretKind.EC_P521: ec.derive_private_key(2**520 + 7, ec.SECP521R1()),
    SecretKind.ED25519: ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33))),
    SecretKind.ED448: ed448.Ed448PrivateKey.from_private_bytes(bytes(range(1, 58))),
}


def key_bytes(length: int) -> bytes:
    return bytes(number % 251 for number in range(7, 7 + length))


def pem(key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def same(one, other) -> bool:
    return pem(one) == pem(other)


def test_every_retrievable_kind_is_made_by_one_type():
    made = {SecretKind.PLAINTEXT, *ELLIPTIC, *(kind for kinds in RAW.values() for kind in kinds.values())}
    assert made == set(KINDS) - {SecretKind.NULL, SecretKind.ASSOCIATION, SecretKind.UPDATE_CCK}
    assert {*RAW, SecretType.PLAIN, SecretType.EC} == set(SecretType)


@pytest.mark.parametrize(
    ("size", "padded"),
    [(0, 16), (1, 16), (14, 16), (15, 32), (10, 16), (8174, 8176), (8175, 8192), (8190, 8192)],
)
def test_part3_T11_plaintext_of_every_size_that_fits(size, padded):
    payload = key_bytes(size)
    value = encode(SecretType.PLAIN, payload)
    assert value.kind is SecretKind.PLAINTEXT
    assert len(value.secret) == padded
    assert len(value.secret) in KINDS[SecretKind.PLAINTEXT].lengths
    assert value.secret == size.to_bytes(2, "big") + payload + bytes(padded - size - 2)
    assert plaintext_payload(value.secret) == payload


def test_part3_T11_plaintext_of_8191_bytes_is_refused():
    with pytest.raises(Unbuildable, match="at most 8190 bytes, not 8191"):
        encode(SecretType.PLAIN, bytes(8191))


@given(payload=st.binary(max_size=300))
def test_plaintext_comes_back_as_it_went_in(payload):
    assert plaintext_payload(encode(SecretType.PLAIN, payload).secret) == payload


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        (b"", "length"),
        (b"\x00", "length"),
        (b"\x00\x0f" + bytes(14), "length"),
        (b"\x00\x00" + bytes(30), "length"),
        (b"\x1f\xff" + bytes(8206), "length"),
        (b"\x00\x0a" + bytes(13) + b"\x01", "something else than zeros"),
    ],
)
def test_plaintext_that_nobody_made_so_is_refused(secret, said):
    with pytest.raises(Malformed, match=said):
        plaintext_payload(secret)


@pytest.mark.parametrize("secret_type", RAW)
def test_the_length_of_a_raw_key_says_its_kind(secret_type):
    for length, kind in RAW[secret_type].items():
        key = key_bytes(length)
        assert encode(secret_type, key) == SecretValue(kind, key)
        for other in (length - 1, length + 1):
            with pytest.raises(Unbuildable, match=f"the key itself, not of {other}"):
                encode(secret_type, key_bytes(other))
    with pytest.raises(Unbuildable, match="not of 0"):
        encode(secret_type, b"")


def test_what_a_raw_key_can_be_is_said():
    for secret_type, said in (
        (SecretType.AES, "an AES key is a file of 16, 24 or 32 bytes"),
        (SecretType.AES_XTS, "an AES-XTS key is a file of 32 or 64 bytes"),
        (SecretType.HMAC_SHA, "an HMAC-SHA key is a file of 64 or 128 bytes"),
    ):
        with pytest.raises(Unbuildable, match=said):
            encode(secret_type, bytes(1))


@pytest.mark.parametrize("half", [16, 32])
def test_an_xts_key_has_two_different_halves(half):
    with pytest.raises(Unbuildable, match="halves of an AES-XTS key are equal"):
        encode(SecretType.AES_XTS, key_bytes(half) * 2)


@pytest.mark.parametrize("kind", ELLIPTIC)
def test_the_key_in_the_file_says_its_kind(kind):
    key, width = ELLIPTIC[kind], KINDS[kind].lengths[0]
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for content in (pem(key), der):
        value = encode(SecretType.EC, content)
        assert (value.kind, len(value.secret)) == (kind, width)
        assert same(elliptic_key(kind, value.secret), key)
    for secret in (value.secret[:-1], value.secret + b"\x00"):
        with pytest.raises(Malformed, match=f"not {len(secret)}"):
            elliptic_key(kind, secret)


def test_p521_and_ed448_are_padded_on_the_left():
    p521, x448 = (
        encode(SecretType.EC, pem(ELLIPTIC[k])).secret for k in (SecretKind.EC_P521, SecretKind.ED448)
    )
    assert p521 == (2**520 + 7).to_bytes(80, "big")
    assert x448 == bytes(7) + bytes(range(1, 58))
    small = encode(SecretType.EC, pem(ec.derive_private_key(5, ec.SECP521R1())))
    assert small.secret == (5).to_bytes(80, "big")


@pytest.mark.parametrize("kind", [kind for kind in ELLIPTIC if kind is not SecretKind.ED25519])
def test_a_number_that_the_curve_does_not_have_is_refused(kind):
    """Of Ed25519 any 32 bytes are a seed."""
    width = KINDS[kind].lengths[0]
    with pytest.raises(Malformed, match=r"not one that the curve has|padded with something else"):
        elliptic_key(kind, b"\xff" * width)
    if kind is not SecretKind.ED448:
        order = ELLIPTIC[kind].curve.group_order
        for number in (0, order):
            with pytest.raises(Malformed, match="not one that the curve has"):
                elliptic_key(kind, number.to_bytes(width, "big"))
        assert elliptic_key(kind, (order - 1).to_bytes(width, "big"))


def test_what_openssl_writes_is_read():
    """`openssl ecparam -genkey` puts the curve's parameters before the key; the older form of the key is read as well."""
    key = ELLIPTIC[SecretKind.EC_P256]
    older = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    for content in (older, parameters + older):
        assert encode(SecretType.EC, content).kind is SecretKind.EC_P256


def test_what_is_no_ec_key_is_refused():
    key = ELLIPTIC[SecretKind.EC_P256]
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a passphrase"))
    for content, said in (
        (pem(ec.derive_private_key(5, ec.SECP256K1())), "not EC secp256k1"),
        (pem(rsa.generate_private_key(65537, 2048)), "not RSA-2048"),
        (pem(x25519.X25519PrivateKey.generate()), "not X25519"),
        (locked, "has a passphrase: give one without"),
        (key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "not a private key"),
        (b"", "not a private key"),
        (bytes(32), "not a private key"),
        (bytes(MAX_KEY_FILE + 1), "at most 65536 bytes"),
    ):
        with pytest.raises(Unbuildable, match=said):
            encode(SecretType.EC, content)


def test_keys_of_one_sort_are_not_taken_for_another():
    with pytest.raises(Malformed, match="is no private key"):
        elliptic_key(SecretKind.AES_256, bytes(32))


def test_so_much_of_a_file_is_worth_reading():
    assert {one: max_content(one) for one in SecretType} == {
        SecretType.PLAIN: MAX_PLAINTEXT,
        SecretType.AES: 32,
        SecretType.AES_XTS: 64,
        SecretType.HMAC_SHA: 128,
        SecretType.EC: MAX_KEY_FILE,
    }


@settings(max_examples=200)
@given(secret_type=st.sampled_from(SecretType), content=st.binary(max_size=200))
def test_part3_T14_any_content_is_encoded_or_refused(secret_type, content):
    try:
        value = encode(secret_type, content)
    except Unbuildable:
        return
    assert len(value.secret) in KINDS[value.kind].lengths


@settings(max_examples=200)
@given(kind=st.sampled_from(list(ELLIPTIC)), data=st.data())
def test_part3_T14_any_secret_is_a_key_or_refused(kind, data):
    length = data.draw(st.sampled_from([KINDS[kind].lengths[0], 0, 57, 66]))
    secret = data.draw(st.binary(min_size=length, max_size=length))
    try:
        key = elliptic_key(kind, secret)
    except Malformed:
        return
    assert encode(SecretType.EC, pem(key)).secret == secret


def test_no_secret_is_in_a_repr_or_in_an_error():
    for secret_type, content in (
        (SecretType.PLAIN, b"never shown" * 800),
        (SecretType.AES, b"never shown"),
        (SecretType.AES_XTS, b"never shown 16by" * 2),
        (SecretType.EC, b"never shown"),
        (SecretType.EC, b"-----BEGIN EC PRIVATE KEY-----\nbmV2ZXIgc2hvd24=\n-----END EC PRIVATE KEY-----\n"),
    ):
        with pytest.raises(Unbuildable) as refused:
            encode(secret_type, content)
        chain: BaseException | None = refused.value
        while chain is not None:
            assert "never shown" not in f"{chain} {chain!r}"
            assert "bmV2ZXIgc2hvd24" not in f"{chain} {chain!r}"
            chain = chain.__cause__ or chain.__context__
    assert "never" not in repr(encode(SecretType.PLAIN, b"never shown"))


def test_the_vectors_are_made_from_their_key_files(vectors):
    """The secrets of derived/retr, from what an owner would have given."""
    expected = {
        "plain_10": (SecretType.PLAIN, bytes(range(10))),
        "aes256": (SecretType.AES, None),
        "hmac256": (SecretType.HMAC_SHA, None),
        "p256": (SecretType.EC, pem(ELLIPTIC[SecretKind.EC_P256])),
    }
    for name, (secret_type, content) in expected.items():
        entry = vectors.entry(f"derived/retr/{name}")
        secret = bytes.fromhex(entry["secret"])
        value = encode(secret_type, secret if content is None else content)
        assert (value.kind, value.secret) == (entry["type"], secret)
