"""The host key: made once, sealed, and with a certificate that owners can use."""

from __future__ import annotations

import pytest
from cryptography import x509
from sqlalchemy import update

from keyvisor_firmware.errors import StateUnusable
from keyvisor_firmware.guests.host_key import host_key
from keyvisor_firmware.state.schema import HOST_KEYS
from keyvisor_guest.wire.host_key_documents import unverified_host_key

from ..machine import NOON, Machine


def test_the_certificate_is_a_host_key_document(machine: Machine) -> None:
    pem = machine.firmware.host_key_certificate().encode()
    assert unverified_host_key(pem).public_numbers() == machine.host_key.private.public_key().public_numbers()
    certificate = x509.load_pem_x509_certificate(pem)
    assert certificate.subject.rfc4514_string() == "CN=keyvisor test host key"
    certificate.verify_directly_issued_by(certificate)
    assert certificate.not_valid_after_utc.year - NOON.year >= 20
    assert certificate.not_valid_before_utc <= NOON


def test_it_is_the_same_after_a_restart_and_another_elsewhere(machine: Machine) -> None:
    before = machine.host_key.private.private_numbers()
    machine.again()
    assert machine.host_key.private.private_numbers() == before


def test_its_repr_tells_nothing(machine: Machine) -> None:
    number = machine.host_key.private.private_numbers().private_value
    assert str(number) not in repr(machine.host_key)
    assert "private" not in repr(machine.host_key)


def test_a_changed_one_is_refused(machine: Machine) -> None:
    with machine.database.transaction() as records:
        row = records.host_key()
        assert row is not None
    broken = bytearray(row.sealed)
    broken[20] ^= 1
    with machine.database._engine.begin() as connection:
        connection.execute(update(HOST_KEYS).values(sealed=bytes(broken)))
    with (
        machine.database.transaction() as records,
        pytest.raises(StateUnusable, match="host key does not open"),
    ):
        host_key(records, machine.token, NOON)


def test_what_was_sealed_for_another_place_is_refused(machine: Machine) -> None:
    guest = machine.guest("payments", secrets=("payments-signing",))
    with machine.database.transaction() as records:
        sealed = records.secret_store(guest.id)
    with machine.database._engine.begin() as connection:
        connection.execute(update(HOST_KEYS).values(sealed=sealed))
    with machine.database.transaction() as records, pytest.raises(StateUnusable):
        host_key(records, machine.token, NOON)
