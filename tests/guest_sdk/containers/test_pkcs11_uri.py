"""PKCS#11 URIs: every key can be named, and nothing but a key."""

from __future__ import annotations

import contextlib
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import KeyRefused
from keyvisor_guest.containers.pkcs11_uri import Pkcs11Uri, parse_uri

labels = st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=40).filter(
    str.isprintable
)


@given(st.none() | labels, st.none() | labels, st.none() | st.binary(min_size=1, max_size=64), st.randoms())
def test_every_key_has_a_uri(
    token: str | None, label: str | None, key_id: bytes | None, random: object
) -> None:
    wanted = {
        "token": None if token is None else token.encode(),
        "object": None if label is None else label.encode(),
        "id": key_id,
    }
    parts = [f"{name}={quote_from_bytes(value)}" for name, value in wanted.items() if value is not None]
    random.shuffle(parts)  # type: ignore[attr-defined]
    text = "pkcs11:" + ";".join(parts).replace("/", "%2F")
    if label is None and key_id is None:
        with pytest.raises(KeyRefused, match="which one"):
            parse_uri(text)
        return
    assert parse_uri(text) == Pkcs11Uri(token, label, key_id)


@given(st.text(max_size=60))
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    for one in (text, f"pkcs11:{text}", f"pkcs11:object=k;{text}", f"pkcs11:object=k?{text}"):
        with contextlib.suppress(KeyRefused):
            found = parse_uri(one)
            assert found.label or found.id


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("pkcs11:", "which one"),
        ("pkcs11:token=03.0011", "which one"),
        ("PKCS11:object=k", "no PKCS#11 URI"),
        ("key.json", "no PKCS#11 URI"),
        ("pkcs11:object=k;object=k", "twice"),
        ("pkcs11:object=a b", "%XX"),
        ("pkcs11:object=%4", "%XX"),
        ("pkcs11:object=a/b", "%XX"),
        ("pkcs11:object=%00", "no text"),
        ("pkcs11:object=%FF", "no text"),
        ("pkcs11:object=", "no text"),
        ("pkcs11:id=", "empty"),
        ("pkcs11:object", "finds no key"),
        ("pkcs11:object=k;slot-id=1", "`slot-id` finds no key"),
        ("pkcs11:object=k;x-vendor=1", "`x-vendor` finds no key"),
        ("pkcs11:object=k;type=private", "leave `type` out"),
        ("pkcs11:object=k?module-path=/tmp/evil.so", "only way"),
        ("pkcs11:object=k;module-name=evil", "only way"),
        ("pkcs11:object=k?pin-source=|/bin/cat", "from the root"),
        ("pkcs11:object=k?pin-source=https://a/b", "from the root"),
        ("pkcs11:object=k?pin-source=//host/b", "from the root"),
        ("pkcs11:object=k?object=k", "finds no key"),
        ("pkcs11:object=" + "k" * 256, "longer"),
        ("pkcs11:object=" + "k" * 5000, "no PKCS#11 URI"),
    ],
)
def test_what_is_refused_and_why(text: str, reason: str) -> None:
    with pytest.raises(KeyRefused) as refused:
        parse_uri(text)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    "where", ["?pin-value=73911", ";pin-value=73911", "?73911", ";73911=1", "?pin=73911"]
)
def test_a_pin_is_not_taken_and_not_repeated(where: str) -> None:
    with pytest.raises(KeyRefused) as refused:
        parse_uri(f"pkcs11:object=k{where}")
    assert "73911" not in str(refused.value)


@pytest.mark.parametrize("source", ["/run/pin", "file:/run/pin", "file:///run/pin", "%2Frun%2Fpin"])
def test_a_pin_may_be_in_a_file(source: str) -> None:
    assert parse_uri(f"pkcs11:object=k?pin-source={source}").pin_source == Path("/run/pin")
