"""Payloads and documents of what a retrieval gave."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.wire.errors import Malformed
from keyvisor_guest.wire.retrieved_secrets import (
    KIND_NAMES,
    MAX_DOCUMENT,
    payload_of,
    pem_document,
    protected_key_of,
)
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind


def padded(payload: bytes) -> bytes:
    value = len(payload).to_bytes(2, "big") + payload
    return value + bytes(-len(value) % 16)


@given(payload=st.binary(min_size=1, max_size=300))
def test_a_payload_is_without_length_and_padding(payload):
    assert payload_of(padded(payload)) == payload


@pytest.mark.parametrize("length", [13, 14, 15, 30, 8189, 8190])
def test_part3_T11_payloads_up_to_8190_bytes(length):
    assert payload_of(padded(b"\x5a" * length)) == b"\x5a" * length


def test_part3_T11_no_payload_at_all():
    """An empty one is a length and 14 zeros, fewer than a whole step."""
    assert payload_of(bytes(16)) == b""


@pytest.mark.parametrize(
    "value",
    [
        b"\x00\x01a" + bytes(29),  # a step of padding too many
        b"\x00\x0e" + bytes(6),  # longer than it is
        b"\x1f\xff" + bytes(8192),  # 8191
        b"\x00\x01a" + b"\x01" * 13,  # padding that is not zero
    ],
)
def test_what_is_built_otherwise_is_given_whole(value):
    """As the tool does it (formats, C.5)."""
    assert payload_of(value) == value


def test_every_kind_that_comes_back_has_a_name():
    assert set(KIND_NAMES) == {row.kind for row in KINDS.values() if row.retrievable}
    assert len(set(KIND_NAMES.values())) == len(KIND_NAMES)


def test_the_document_of_a_key_says_whose_it_is():
    text = pem_document(SecretKind.EC_P256, bytes(range(64)))
    first, kind, mark, blank, *body, last, end = text.split("\n")
    assert (first, last) == ("-----BEGIN IBM PROTECTED KEY-----", "-----END IBM PROTECTED KEY-----")
    assert (kind, blank, end) == ("kind: EC-SECP256R1-PRIVATE-KEY", "", "")
    assert mark.startswith("emulator: keyvisor; not a protected key")
    assert [len(line) for line in body] == [64, 24]
    assert base64.b64decode("".join(body)) == bytes(range(64))


def test_the_document_of_a_plaintext_secret():
    assert pem_document(SecretKind.PLAINTEXT, b"text") == (
        "-----BEGIN PLAINTEXT SECRET-----\nkind: PLAINTEXT\n\ndGV4dA==\n-----END PLAINTEXT SECRET-----\n"
    )


@pytest.mark.parametrize("kind", [SecretKind.NULL, SecretKind.ASSOCIATION, SecretKind.UPDATE_CCK])
def test_what_never_comes_back_has_no_document(kind):
    with pytest.raises(KeyError):
        pem_document(kind, b"")


@pytest.mark.parametrize("kind", sorted(set(KIND_NAMES) - {SecretKind.PLAINTEXT}))
@pytest.mark.parametrize("length", [48, 50, 98, 160])
def test_a_keys_document_is_read_as_it_is_written(kind, length):
    document = pem_document(kind, b"\x5a" * length)
    assert protected_key_of(document.encode()) == (kind, b"\x5a" * length)
    assert protected_key_of(document.replace("\n", "\r\n").encode()) == (kind, b"\x5a" * length)


_DOCUMENT = pem_document(SecretKind.EC_P256, bytes(range(64)))


@pytest.mark.parametrize(
    "document",
    [
        "",
        pem_document(SecretKind.PLAINTEXT, b"text"),
        _DOCUMENT.replace("IBM PROTECTED KEY", "PRIVATE KEY"),
        _DOCUMENT.replace("EC-SECP256R1-PRIVATE-KEY", "EC-SECP256K1-PRIVATE-KEY"),
        _DOCUMENT.replace("EC-SECP256R1-PRIVATE-KEY", "PLAINTEXT"),
        _DOCUMENT.replace("kind: ", "sort: "),
        _DOCUMENT.replace("\n\n", "\n"),
        _DOCUMENT.replace("-----END IBM", "-----end IBM"),
        _DOCUMENT.replace("AAEC", "A=EC"),
        _DOCUMENT.replace("AAEC", "AAE"),
        _DOCUMENT.replace("AAEC", "AA C"),
        _DOCUMENT + " " * MAX_DOCUMENT,
    ],
)
def test_what_is_no_keys_document_is_malformed(document):
    with pytest.raises(Malformed):
        protected_key_of(document.encode())


@given(
    document=st.one_of(st.binary(max_size=400), st.text().map(lambda text: (_DOCUMENT[:90] + text).encode()))
)
def test_part3_T14_any_bytes_are_a_keys_document_or_malformed(document):
    with pytest.raises(Malformed):
        protected_key_of(document)
