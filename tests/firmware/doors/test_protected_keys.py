"""The guest's door for retrieved secrets and protected keys: what passes, what is refused, and that no key is in it."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from keyvisor_guest.wire.messages import MAX_KEY_DATA, MAX_KEY_PARAMETER
from keyvisor_guest.wire.secret_kinds import SecretKind

from .conftest import House

SCALAR = bytes(range(0x40, 0x60))
HMAC_KEY = bytes(range(0x80, 0xC0))
TEXT = b"\x00\x05hello" + bytes(9)


def text_of(value: bytes) -> str:
    return base64.b64encode(value).decode()


def bytes_of(text: str) -> bytes:
    return base64.b64decode(text)


@pytest.fixture
def guest(house: House) -> House:
    """The guest `payments` with a plaintext secret (0), an EC key (1), an HMAC key (2), an association secret (3)."""
    house.start("payments")
    machine = house.machine
    instance = machine._instances()[0]
    for name, kind, value in (
        ("text", SecretKind.PLAINTEXT, TEXT),
        ("signer", SecretKind.EC_P256, SCALAR),
        ("code", SecretKind.HMAC_SHA_256, HMAC_KEY),
        ("payments-signing", SecretKind.ASSOCIATION, b"\x5e" * 32),
    ):
        request = machine.request(instance, name, value, kind)
        house.ask("payments", "POST", "/secrets", {"request": text_of(request)}).ok()
    return house


def retrieved(house: House, index: int) -> dict[str, Any]:
    found = house.ask("payments", "GET", f"/secrets/{index}").ok()
    return {**found, "value": bytes_of(found["value"])}


def use(house: House, index: int, operation: str, data: bytes = b"", **more: Any) -> Any:
    secret = house.ask("payments", "GET", f"/secrets/{index}").ok()
    body = {"blob": secret["value"], "kind": secret["type"], "operation": operation, "data": text_of(data)}
    return house.ask("payments", "POST", "/protected-keys/use", {**body, **more})


def test_a_plaintext_secret_comes_in_clear(guest: House) -> None:
    assert retrieved(guest, 0) == {
        "index": 0,
        "type": 3,
        "id": hashlib.sha256(b"text").hexdigest(),
        "value": TEXT,
    }


def test_part3_T9_an_association_secret_is_refused_at_the_door(guest: House) -> None:
    problem = guest.ask("payments", "GET", "/secrets/3").problem(409)
    assert (problem.kind, problem.code) == ("uv", 0x0111)
    assert guest.ask("payments", "GET", "/secrets/4").problem(409).code == 0x0110
    assert guest.ask("payments", "GET", "/secrets/99999").problem(409).code == 0x0110


def test_a_key_signs_through_the_door(guest: House) -> None:
    public = load_der_public_key(bytes_of(use(guest, 1, "public-key").ok()["data"]))
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.public_numbers() == (
        ec.derive_private_key(int.from_bytes(SCALAR, "big"), ec.SECP256R1()).public_key().public_numbers()
    )
    signature = bytes_of(use(guest, 1, "sign", b"pay 42").ok()["data"])
    public.verify(signature, b"pay 42", ec.ECDSA(hashes.SHA256()))
    verified = use(guest, 1, "verify", b"pay 42", parameters={"signature": text_of(signature)})
    assert verified.ok() == {"data": ""}
    problem = use(guest, 1, "verify", b"pay 43", parameters={"signature": text_of(signature)}).problem(409)
    assert (problem.kind, problem.code) == ("key", 0x07)


def test_the_lock_ends_neither(guest: House) -> None:
    guest.ask("payments", "POST", "/secrets/lock").ok()
    assert retrieved(guest, 0)["value"] == TEXT
    code = bytes_of(use(guest, 2, "sign", b"pay 42").ok()["data"])
    assert code == hmac.digest(HMAC_KEY, b"pay 42", "sha256")


def test_part3_T8_no_byte_of_a_key_is_in_what_the_guest_gets(guest: House) -> None:
    """Whatever it asks for, refusals too."""
    said = [
        guest.ask("payments", "GET", "/secrets").text,
        *(guest.ask("payments", "GET", f"/secrets/{index}").text for index in (1, 2, 3, 4)),
        use(guest, 1, "public-key").text,
        use(guest, 2, "public-key").text,
        use(guest, 1, "sign", b"pay 42").text,
        use(guest, 2, "sign", b"pay 42").text,
        use(guest, 2, "encrypt", b"pay 42").text,
        use(guest, 1, "sign", b"pay 42", parameters={"digest": True}).text,
        guest.ask("payments", "GET", "/openapi.json").text,
    ]
    for text in said:
        for key in (SCALAR, HMAC_KEY, b"\x5e" * 32):
            for at in range(len(key) - 7):
                part = key[at : at + 8]
                assert part not in text
                assert part.hex().encode() not in text
    for index in (1, 2):
        value = retrieved(guest, index)["value"]
        assert not any(key[at : at + 8] in value for key in (SCALAR, HMAC_KEY) for at in range(24))


def test_part3_T8_another_guests_key_is_refused(guest: House) -> None:
    guest.start("billing")
    body = {"blob": text_of(retrieved(guest, 1)["value"]), "kind": 0x11, "operation": "sign", "data": ""}
    assert guest.ask("payments", "POST", "/protected-keys/use", body).ok()
    problem = guest.ask("billing", "POST", "/protected-keys/use", body).problem(409)
    assert (problem.kind, problem.code) == ("key", 0x02)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"blob": ""}, 0x01),
        ({"blob": text_of(bytes(64))}, 0x01),
        ({"kind": 3}, 0x01),
        ({"kind": 2}, 0x01),
        ({"kind": 0x13}, 0x01),
        ({"kind": 0x14}, 0x03),
        ({"operation": "decrypt"}, 0x04),
        ({"parameters": {"iv": text_of(bytes(12))}}, 0x05),
        ({"operation": "public-key", "data": text_of(b"x")}, 0x06),
    ],
)
def test_every_refusal_of_a_key_has_its_code(guest: House, changed: dict[str, Any], code: int) -> None:
    body = {"blob": text_of(retrieved(guest, 1)["value"]), "kind": 0x11, "operation": "sign", "data": ""}
    problem = guest.ask("payments", "POST", "/protected-keys/use", {**body, **changed}).problem(409)
    assert (problem.kind, problem.code) == ("key", code)
    assert problem.message.endswith(f"(protected key code {code:02x})")


@pytest.mark.parametrize(
    ("changed", "finding"),
    [
        ({"operation": "steal"}, "operation"),
        ({"kind": "17"}, "kind"),
        ({"parameters": {"mode": "ECB"}}, "parameters.mode"),
        ({"parameters": {"nonce": ""}}, "parameters.nonce"),
        ({"blob": "A"}, "blob"),
    ],
)
def test_a_use_that_is_none_is_refused(guest: House, changed: dict[str, Any], finding: str) -> None:
    body = {"blob": "AAAA", "kind": 0x11, "operation": "sign", "data": ""}
    problem = guest.ask("payments", "POST", "/protected-keys/use", {**body, **changed}).problem(422)
    assert any(each.startswith(finding) for each in problem.findings), problem


def test_a_number_that_is_no_type_is_refused(guest: House) -> None:
    body = {"blob": "AAAA", "kind": 0x0B, "operation": "sign", "data": ""}
    assert (
        "no secret's type" in guest.ask("payments", "POST", "/protected-keys/use", body).problem(422).message
    )


def test_part3_T14_what_a_use_takes_is_bounded(guest: House) -> None:
    assert use(guest, 2, "sign", bytes(MAX_KEY_DATA)).status == 200
    assert use(guest, 2, "sign", bytes(MAX_KEY_DATA + 1)).problem(413).code == 413
    for name in ("iv", "associated", "signature"):
        long = {name: text_of(bytes(MAX_KEY_PARAMETER + 1))}
        assert use(guest, 2, "sign", b"", parameters=long).problem(413).code == 413
    assert use(guest, 2, "sign", bytes(2 * MAX_KEY_DATA)).problem(413).code == 413


@pytest.mark.parametrize("index", ["x", "-1", "1.0", "123456", "%0A1", "1%0A", "٣"])
def test_what_names_no_secret_is_refused(guest: House, index: str) -> None:
    path = f"/secrets/{quote(index, safe='%')}"
    assert "names no secret" in guest.ask("payments", "GET", path).problem(422).message


def test_the_host_and_the_operator_retrieve_nothing(guest: House) -> None:
    for door in ("host", "operator"):
        assert guest.ask(door, "GET", "/secrets/0").problem(404).kind == "http"
        assert guest.ask(door, "POST", "/protected-keys/use", {}).problem(404).kind == "http"
