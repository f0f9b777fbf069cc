"""The doors' routes for host keys and attestation."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from keyvisor_guest.owner import Owner
from keyvisor_guest.wire.attestation import verify
from keyvisor_guest.wire.attestation_file import AttestationFile
from keyvisor_guest.wire.host_key_chain import Trust, verified_host_key

from ..machine import NOON
from .conftest import House


def test_the_host_hands_out_what_owners_verify_it_by(house: House) -> None:
    told = house.ask("host", "GET", "/host-keys").ok()
    assert told["current"] == house.ask("host", "GET", "/host-key").ok()["pem"]
    certificates = {name: x509.load_pem_x509_certificate(told[name].encode()) for name in ("root", "signing")}
    trust = Trust(
        certificates["root"],
        (certificates["signing"],),
        (x509.load_pem_x509_crl(told["revocations"].encode()),),
    )
    for name in ("current", "backup"):
        verified_host_key(told[name].encode(), trust, NOON)
    assert len(told["hashes"]) == 15


def test_the_host_is_told_no_private_key_and_cannot_change_them(house: House) -> None:
    told = house.ask("host", "GET", "/host-keys").text.decode()
    assert "PRIVATE" not in told
    for path in ("/host-keys/rotate", "/host-keys/revoke"):
        house.ask("host", "POST", path, {"serial": "1"}).problem(404)


def test_the_operator_lists_rotates_and_revokes(house: House) -> None:
    before = house.ask("operator", "GET", "/host-keys").ok()
    assert [one["use"] for one in before["documents"]] == ["backup", "current"]
    root = x509.load_pem_x509_certificate(house.ask("host", "GET", "/host-keys").ok()["root"].encode())
    assert before["root_fingerprint"] == root.fingerprint(hashes.SHA256()).hex()
    hashes_before = house.ask("host", "GET", "/host-keys").ok()["hashes"]
    rotated = house.ask("operator", "POST", "/host-keys/rotate").ok()
    assert [one["use"] for one in rotated["documents"]] == ["retired", "backup", "current"]
    assert house.ask("host", "GET", "/host-keys").ok()["hashes"][1] == hashes_before[0]
    serial = rotated["documents"][0]["serial"]
    revoked = house.ask("operator", "POST", "/host-keys/revoke", {"serial": serial}).ok()
    assert [one["revoked"] is not None for one in revoked["documents"]] == [True, False, False]
    assert house.ask("operator", "POST", "/host-keys/revoke", {"serial": serial}).problem(409).kind == "http"
    assert house.ask("operator", "POST", "/host-keys/revoke", {"serial": "77"}).problem(404).kind == "http"
    house.ask("operator", "POST", "/host-keys/revoke", {"serial": "XY"}).problem(422)


@pytest.fixture
def guest(house: House) -> House:
    house.start("payments")
    return house


def test_a_guest_is_attested(guest: House) -> None:
    made = Owner([guest.machine.firmware.host_key_certificate().encode()]).attestation_request(["phkh-att"])
    asked = AttestationFile.decode(made.data)
    body = {
        "request": base64.b64encode(asked.request).decode(),
        "user_data": base64.b64encode(b"mine").decode(),
    }
    answer = {
        name: bytes.fromhex(text)
        for name, text in guest.ask("payments", "POST", "/attest", body).ok().items()
    }
    instance = guest.machine._instances()[0]
    found = verify(AttestationFile(asked.request, user_data=b"mine", **answer), made.key, instance.identity)
    assert found.cuid == instance.cuid
    assert found.additional.attestation_host_key == guest.machine.host_key.hash


def test_a_refused_attestation_has_its_own_numbering(guest: House) -> None:
    body = {"request": base64.b64encode(bytes(100)).decode(), "user_data": ""}
    problem = guest.ask("payments", "POST", "/attest", body).problem(409)
    assert (problem.kind, problem.code) == ("attest", 0x0106)
    assert "keyvisor owner attest create" in problem.message


def test_no_other_door_attests(guest: House) -> None:
    for door in ("host", "operator"):
        guest.ask(door, "POST", "/attest", {}).problem(404)
