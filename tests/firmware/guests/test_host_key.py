"""The host keys: made once, sealed each for its name, vouched for by a test CA, rotated and revoked."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from contextlib import nullcontext
from random import Random

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, update

from keyvisor_firmware.errors import Conflict, NotFound, StateUnusable
from keyvisor_firmware.guests.host_key import KeyName, host_keys
from keyvisor_firmware.secrets import UvError
from keyvisor_firmware.state.schema import HOST_KEYS
from keyvisor_firmware.storage import areas
from keyvisor_firmware.storage.contents import Contents
from keyvisor_guest.owner import Owner
from keyvisor_guest.wire.errors import HostKeyUntrusted
from keyvisor_guest.wire.host_key_chain import Trust, verified_host_key
from keyvisor_guest.wire.p521 import public_key_hash

from ..machine import NOON, Machine


def trust(machine: Machine) -> Trust:
    """What an owner who trusts this machine's root has."""
    given = machine.firmware.host_keys.documents()
    root, signing = (x509.load_pem_x509_certificate(pem.encode()) for pem in (given.root, given.signing))
    return Trust(root, (signing,), (x509.load_pem_x509_crl(given.revocations.encode()),))


def serials(machine: Machine) -> dict[str, str]:
    return {one.use.value: one.serial for one in machine.firmware.host_keys.issued()}


def test_owners_can_verify_both_documents(machine: Machine) -> None:
    given = machine.firmware.host_keys.documents()
    assert given.current == machine.firmware.host_key_certificate()
    for pem, private in zip((given.current, given.backup), machine.host_keys.private, strict=True):
        found = verified_host_key(pem.encode(), trust(machine), NOON)
        assert found.public_numbers() == private.public_key().public_numbers()


def test_query_keys_answers_fifteen_hashes(machine: Machine) -> None:
    """Formats, C.1, command 0002."""
    current, backup, *rest = machine.firmware.host_keys.documents().hashes
    assert [current, backup] == [public_key_hash(key.public_key()) for key in machine.host_keys.private]
    assert rest == [bytes(32)] * 13


def test_every_name_says_that_it_is_a_test(machine: Machine) -> None:
    ring = machine.host_keys.ring
    for key in (ring.current, ring.backup, ring.root, ring.signing):
        for name in (key.x509.subject, key.x509.issuer):
            assert name.rfc4514_string().count("keyvisor test") == 2


def test_the_keys_differ(machine: Machine) -> None:
    ring = machine.host_keys.ring
    assert len({key.hash for key in (ring.current, ring.backup, ring.root, ring.signing)}) == 4


def test_they_are_the_same_after_a_restart(machine: Machine) -> None:
    before = machine.host_keys.ring
    machine.again()
    after = machine.host_keys.ring
    for name in ("current", "backup", "root", "signing"):
        assert getattr(after, name).hash == getattr(before, name).hash
        assert getattr(after, name).certificate == getattr(before, name).certificate


def test_their_repr_tells_nothing(machine: Machine) -> None:
    for text in (repr(machine.host_keys.ring), repr(machine.host_keys)):
        for key in machine.host_keys.private:
            assert str(key.private_numbers().private_value) not in text
        assert "private" not in text


@pytest.mark.parametrize("name", list(KeyName))
def test_a_changed_one_is_refused(machine: Machine, name: KeyName) -> None:
    with machine.database.transaction() as records:
        broken = bytearray(records.host_keys()[name].sealed)
    broken[20] ^= 1
    with machine.database._engine.begin() as connection:
        connection.execute(update(HOST_KEYS).where(HOST_KEYS.c.name == name).values(sealed=bytes(broken)))
    with pytest.raises(StateUnusable, match=f"host key `{name}` does not open"):
        machine.again()


def test_one_in_anothers_place_is_refused(machine: Machine) -> None:
    """Else whoever writes to the database could make the backup current again."""
    with machine.database.transaction() as records:
        backup = records.host_keys()[KeyName.BACKUP]
    with machine.database._engine.begin() as connection:
        connection.execute(
            update(HOST_KEYS)
            .where(HOST_KEYS.c.name == KeyName.CURRENT)
            .values(sealed=backup.sealed, certificate=backup.certificate)
        )
    with pytest.raises(StateUnusable, match="`current` does not open"):
        machine.again()


def test_one_that_is_missing_is_refused(machine: Machine) -> None:
    with machine.database._engine.begin() as connection:
        connection.execute(delete(HOST_KEYS).where(HOST_KEYS.c.name == KeyName.BACKUP))
    with pytest.raises(StateUnusable, match="not all there"):
        machine.again()


def test_what_was_sealed_for_another_place_is_refused(machine: Machine) -> None:
    machine.guest("payments", secrets=("payments-signing",))
    with machine.database.transaction() as records:
        store = machine.holdings.store_area(machine.configuration("payments"))
        sealed = areas.gather(store, Contents(records).read)
    with machine.database._engine.begin() as connection:
        connection.execute(update(HOST_KEYS).values(sealed=sealed))
    with machine.database.transaction() as records, pytest.raises(StateUnusable):
        host_keys(records, machine.token, lambda: NOON)


def test_rotation_keeps_the_current_one_as_backup(machine: Machine) -> None:
    before = machine.host_keys.ring
    machine.firmware.host_keys.rotate()
    after = machine.host_keys.ring
    assert after.backup.hash == before.current.hash
    assert after.current.hash not in {before.current.hash, before.backup.hash}
    assert [one.use.value for one in machine.firmware.host_keys.issued()] == ["retired", "backup", "current"]
    machine.again()
    assert machine.host_keys.ring.current.hash == after.current.hash
    assert machine.host_keys.ring.backup.hash == after.backup.hash


@pytest.mark.parametrize("restarted", [False, True])
def test_part3_T2_requests_for_current_and_backup_open_and_for_older_keys_do_not(
    machine: Machine, restarted: bool
) -> None:
    guest = machine.guest("payments")
    oldest = machine.request(guest, "a")
    older = machine.request(guest, "b")
    machine.firmware.host_keys.rotate()
    if restarted:
        machine.again()
    machine.firmware.add_secret(guest.id, oldest)
    machine.firmware.add_secret(guest.id, machine.request(guest, "c"))
    machine.firmware.host_keys.rotate()
    if restarted:
        machine.again()
    with pytest.raises(UvError) as refused:
        machine.firmware.add_secret(guest.id, older)
    assert refused.value.rc == 0x0108
    assert len(machine.firmware.list_secrets(guest.id)[0]) == 2


def test_a_rotation_that_is_not_committed_is_none(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine.host_keys.ring

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(machine.audit, "done", fail)
    with pytest.raises(ZeroDivisionError):
        machine.firmware.host_keys.rotate()
    monkeypatch.undo()
    assert machine.host_keys.ring is before
    machine.again()
    assert machine.host_keys.ring.current.hash == before.current.hash
    assert len(machine.firmware.host_keys.issued()) == 2


def test_a_revoked_document_is_refused_by_owners(machine: Machine) -> None:
    current = machine.firmware.host_key_certificate().encode()
    serial = serials(machine)["current"]
    machine.firmware.host_keys.revoke(serial)
    machine.again()
    with pytest.raises(HostKeyUntrusted, match=f"serial number {serial}, was revoked"):
        verified_host_key(current, trust(machine), NOON)
    backup = machine.firmware.host_keys.documents().backup.encode()
    verified_host_key(backup, trust(machine), NOON)
    assert [one.revoked is not None for one in machine.firmware.host_keys.issued()] == [False, True]


def test_a_retired_document_can_be_revoked(machine: Machine) -> None:
    retired = machine.firmware.host_keys.documents().backup.encode()
    machine.firmware.host_keys.rotate()
    machine.firmware.host_keys.revoke(serials(machine)["retired"])
    with pytest.raises(HostKeyUntrusted, match="revoked"):
        verified_host_key(retired, trust(machine), NOON)


def test_what_cannot_be_revoked_is_refused(machine: Machine) -> None:
    with pytest.raises(NotFound, match="no host-key document has the serial number 77"):
        machine.firmware.host_keys.revoke("77")
    serial = serials(machine)["current"]
    machine.firmware.host_keys.revoke(serial)
    with pytest.raises(Conflict, match="already"):
        machine.firmware.host_keys.revoke(serial)


def test_the_list_is_always_a_present_one(machine: Machine) -> None:
    """A daemon may run for longer than a list is valid."""
    machine.now = NOON + datetime.timedelta(days=400)
    verified_host_key(machine.firmware.host_key_certificate().encode(), trust(machine), machine.now)


def test_rotations_and_revocations_are_in_the_audit_log(machine: Machine) -> None:
    machine.firmware.host_keys.rotate()
    machine.firmware.host_keys.revoke(serials(machine)["backup"])
    assert [event.event for event in machine.firmware.audit_log()][-2:] == [
        "rotate host key",
        "revoke host key",
    ]


def test_no_file_and_no_log_line_holds_a_private_key_in_clear(machine: Machine) -> None:
    machine.firmware.host_keys.rotate()
    machine.firmware.host_keys.documents()
    ring = machine.host_keys.ring
    files = [path for path in machine.path.parent.iterdir() if path.is_file()]
    written = b"".join(path.read_bytes() for path in files) + "".join(machine.log.lines).encode()
    assert ring.current.certificate.encode() in written, "the scan sees what is in clear"
    for key in (ring.current, ring.backup, ring.root, ring.signing):
        scalar = key.private.private_numbers().private_value.to_bytes(66)[2:]
        for form in (scalar, scalar.hex().encode(), repr(scalar)[2:-1].encode()):
            assert form not in written


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from(["rotate", "revoke", "restart"]), max_size=7), pick=st.randoms())
def test_any_story_leaves_two_keys_and_a_true_list(
    new_machine: Callable[[], Machine], steps: list[str], pick: Random
) -> None:
    """Against a shadow: documents in the order of their making, the last two of them in use, some revoked."""
    machine = new_machine()
    guest = machine.guest("payments")
    shadow = [machine.firmware.host_keys.documents().backup, machine.firmware.host_key_certificate()]
    revoked: set[str] = set()
    for step in steps:
        if step == "rotate":
            machine.firmware.host_keys.rotate()
            shadow.append(machine.firmware.host_key_certificate())
        elif step == "restart":
            machine.again()
        elif left := [pem for pem in shadow if pem not in revoked]:
            chosen = pick.choice(left)
            revoked.add(chosen)
            machine.firmware.host_keys.revoke(
                f"{x509.load_pem_x509_certificate(chosen.encode()).serial_number:x}"
            )
    uses = [one.use.value for one in machine.firmware.host_keys.issued()]
    assert uses == ["retired"] * (len(shadow) - 2) + ["backup", "current"]
    vouched = trust(machine)
    for number, pem in enumerate(shadow):
        with nullcontext() if pem not in revoked else pytest.raises(HostKeyUntrusted, match="revoked"):
            verified_host_key(pem.encode(), vouched, NOON)
        request = Owner([pem.encode()]).meta_request(guest.identity).data
        with nullcontext() if number >= len(shadow) - 2 else pytest.raises(UvError, match="0x0108"):
            machine.firmware.add_secret(guest.id, request)
