"""Secret stores on disk: sealed, each for one start of one guest, and nowhere else in clear."""

from __future__ import annotations

import pytest

from keyvisor_firmware.errors import StateUnusable
from keyvisor_firmware.secrets import UvError
from keyvisor_firmware.storage.contents import Contents
from keyvisor_firmware.storage.pages import Span

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


def stored(machine: Machine, name: str) -> list[bytes]:
    """The pages of a guest's secret store, as they lie in its variable area."""
    with machine.database.transaction() as records:
        contents = Contents(records)
        return [contents.read(span) for span in store_of(machine, name)]


def store_of(machine: Machine, name: str) -> tuple[Span, ...]:
    return machine.holdings.store_area(machine.configuration(name))


def put_back(machine: Machine, name: str, pieces: list[bytes]) -> None:
    """Write over a guest's store, as whoever has the state directory can while no daemon runs."""
    with machine.database.transaction() as records:
        contents = Contents(records)
        for span, content in zip(store_of(machine, name), pieces, strict=True):
            contents.write(span.start, content)


def test_the_store_lies_in_what_the_host_gave_for_the_guest(machine: Machine) -> None:
    machine.guest("payments")
    assert not any(map(any, stored(machine, "payments")))
    guest = machine.guest("billing", secrets=("payments-signing",))
    assert any(map(any, stored(machine, "billing")))
    area = store_of(machine, "billing")
    for span in area:
        found = machine.holdings.host.zone.at(span.start)
        assert found is not None
        assert (found.value.domain, found.value.firmware) == (
            machine.configuration("billing").row.handle,
            True,
        )
    machine.stop("billing")
    assert guest.name == "billing"
    assert not any(any(machine.host.memory.read(span.start, span.length)) for span in area), "scrubbed"


def test_a_store_that_was_moved_to_another_guest_does_not_open(machine: Machine) -> None:
    machine.guest("payments", secrets=("payments-signing",))
    machine.guest("billing", secrets=("another",))
    put_back(machine, "billing", stored(machine, "payments"))
    with pytest.raises(StateUnusable, match="`billing` does not open"):
        machine.again()


def test_the_store_of_an_earlier_start_does_not_open_in_a_later_one(machine: Machine) -> None:
    machine.guest("payments", secrets=("payments-signing",))
    pieces = stored(machine, "payments")
    machine.stop("payments")
    machine.guest("payments")
    put_back(machine, "payments", pieces)
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
