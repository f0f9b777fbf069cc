"""Secret stores on disk: sealed, each for one start of one guest, and nowhere else in clear."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from keyvisor_firmware.errors import StateUnusable
from keyvisor_firmware.secrets import UvError
from keyvisor_firmware.state.schema import SECRET_STORES

from ..machine import HSM, SIGNING, Machine, policy

VALUE = bytes(range(100, 132))


def test_the_store_comes_back_with_its_lock(machine: Machine) -> None:
    guest = machine.guest("payments", secrets=("payments-signing", "another"))
    before = machine.firmware.list_secrets(guest.id)
    machine.again()
    assert machine.firmware.list_secrets(guest.id) == before
    machine.firmware.lock_secrets(guest.id)
    machine.again()
    assert machine.firmware.list_secrets(guest.id) == (before[0], True)
    with pytest.raises(UvError) as caught:
        machine.firmware.add_secret(guest.id, machine.request(guest, "late"))
    assert caught.value.rc == 0x0102
    assert machine.firmware.list_secrets(guest.id) == (before[0], True)


def test_a_store_that_was_moved_to_another_guest_does_not_open(machine: Machine) -> None:
    guest = machine.guest("payments", secrets=("payments-signing",))
    other = machine.guest("billing", secrets=("another",))
    with machine.database.transaction() as records:
        sealed = records.secret_store(guest.id)
    with machine.database._engine.begin() as connection:
        connection.execute(
            update(SECRET_STORES).where(SECRET_STORES.c.instance == other.id).values(sealed=sealed)
        )
    with pytest.raises(StateUnusable, match="`billing` does not open"):
        machine.again()


def test_the_store_of_an_earlier_start_does_not_open_in_a_later_one(machine: Machine) -> None:
    first = machine.guest("payments", secrets=("payments-signing",))
    with machine.database.transaction() as records:
        sealed = records.secret_store(first.id)
        assert sealed is not None
    machine.stop("payments")
    second = machine.guest("payments")
    with machine.database.transaction() as records:
        records.put_secret_store(second.id, sealed)
    with pytest.raises(StateUnusable):
        machine.again()


def test_part2_T12_no_file_holds_a_secret_in_clear(machine: Machine) -> None:
    guest = machine.guest("payments", HSM)
    firmware = machine.firmware
    firmware.add_secret(guest.id, machine.request(guest, "payments-signing", VALUE))
    firmware.set_policy(guest.id, policy("payments-signing"))
    firmware.bind(guest.id, HSM)
    firmware.associate(guest.id, HSM, SIGNING)
    scalar = machine.host_key.private.private_numbers().private_value.to_bytes(66)
    files = [path for path in machine.path.parent.iterdir() if path.is_file()]
    written = b"".join(path.read_bytes() for path in files) + "".join(machine.log.lines).encode()
    assert b"rule-of-payments-signing" in written, "the scan sees what is in clear"
    for secret in (VALUE, scalar[2:]):
        for form in (secret, secret.hex().encode(), secret.hex().upper().encode(), repr(secret).encode()):
            assert form not in written


def test_what_is_told_of_a_running_guest_holds_no_secret(machine: Machine) -> None:
    guest = machine.guest("payments")
    machine.firmware.add_secret(guest.id, machine.request(guest, "payments-signing", VALUE))
    (running,) = tuple(machine.firmware._guests)
    for text in (repr(running), repr(running.secrets.state), repr(machine.firmware.list_secrets(guest.id))):
        assert VALUE.hex() not in text
        assert repr(VALUE)[2:-1] not in text
