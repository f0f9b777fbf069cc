"""Retrieved secrets and protected keys in the core as a whole: what a restart keeps, and what a new start does not."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from keyvisor_firmware.config import Config, Limits
from keyvisor_firmware.errors import NotFound
from keyvisor_firmware.guests.instance import Instance
from keyvisor_firmware.secrets import (
    KeyCode,
    KeyRefused,
    KeyUse,
    Operation,
    SecretIndex,
    UvError,
)
from keyvisor_guest.wire.secret_kinds import SecretKind

from .machine import Machine

KEY = os.urandom(64)  # of HMAC-SHA-256, whose codes are the same each time
TEXT = b"\x00\x1e" + b"a plaintext secret of 30 bytes"


def add(machine: Machine, guest: Instance, kind: SecretKind, value: bytes) -> None:
    machine.firmware.add_secret(guest.id, machine.request(guest, "a secret", value, kind))


def keyed(machine: Machine, name: str) -> tuple[Instance, bytes]:
    """A guest with the key, and its protected key."""
    guest = machine.guest(name)
    add(machine, guest, SecretKind.HMAC_SHA_256, KEY)
    return guest, machine.firmware.retrieve_secret(guest.id, SecretIndex(0)).value


def sign(machine: Machine, guest: Instance, blob: bytes) -> bytes:
    use = KeyUse(SecretKind.HMAC_SHA_256, blob, Operation.SIGN, b"data")
    return machine.firmware.use_protected_key(guest.id, use)


def other_key():
    return pytest.raises(KeyRefused, check=lambda error: error.code is KeyCode.OTHER_WRAPPING_KEY)


def test_part3_T8_a_protected_key_lives_through_a_restart_of_the_daemon(machine: Machine) -> None:
    guest, blob = keyed(machine, "payments")
    code = sign(machine, guest, blob)
    machine.again()
    assert machine.firmware.retrieve_secret(guest.id, SecretIndex(0)).value == blob
    assert sign(machine, guest, blob) == code


def test_part3_T8_it_is_refused_in_a_second_instance_and_after_a_new_start(machine: Machine) -> None:
    guest, blob = keyed(machine, "payments")
    second, other = keyed(machine, "billing")
    assert sign(machine, second, other) == sign(machine, guest, blob), "the same key"
    with other_key():
        sign(machine, second, blob)
    machine.stop("payments")
    with pytest.raises(NotFound):
        sign(machine, guest, blob)
    again, _ = keyed(machine, "payments")
    with other_key():
        sign(machine, again, blob)
    machine.again()
    with other_key():
        sign(machine, again, blob)


def test_part3_T12_two_instances_of_one_image_have_secrets_of_their_own(machine: Machine) -> None:
    first = machine.start("first")
    second = machine.start("second", machine.image("first"))
    assert first.identity == second.identity
    add(machine, first, SecretKind.PLAINTEXT, TEXT)
    add(machine, second, SecretKind.PLAINTEXT, TEXT[::-1])
    assert machine.firmware.retrieve_secret(first.id, SecretIndex(0)).value == TEXT
    assert machine.firmware.retrieve_secret(second.id, SecretIndex(0)).value == TEXT[::-1]


def test_a_retrieval_is_in_the_audit_log_and_no_secret_is(machine: Machine) -> None:
    guest, blob = keyed(machine, "payments")
    add(machine, guest, SecretKind.PLAINTEXT, TEXT)
    machine.firmware.retrieve_secret(guest.id, SecretIndex(1))
    with pytest.raises(UvError):
        machine.firmware.retrieve_secret(guest.id, SecretIndex(2))
    *_, done, refused = machine.firmware.audit_log()
    assert (done.event, done.detail) == ("retrieve secret", {"outcome": "done", "index": "1"})
    assert (refused.event, refused.detail["outcome"]) == ("retrieve secret", "refused")
    assert "0x0110" in refused.detail["reason"]
    told = repr(machine.firmware.audit_log()) + repr(machine.log.__dict__)
    for value in (KEY, TEXT[2:], blob):
        assert value.hex() not in told
        assert repr(value)[2:-1] not in told


def test_no_secret_is_in_clear_in_the_database(machine: Machine) -> None:
    _, blob = keyed(machine, "payments")
    wrapping_key = machine.firmware._guests.named("payments").secrets.state.wrapping_key
    assert wrapping_key is not None
    files = list(machine.path.parent.glob(f"{machine.path.name}*"))
    assert len(files) > 1, "the journal is looked through too"
    for file in files:
        data = file.read_bytes()
        for value in (KEY, wrapping_key, blob):
            assert not any(value[at : at + 16] in data for at in range(len(value) - 15)), file


def test_the_configuration_says_how_many_secrets_a_store_takes(new_machine: Callable[..., Machine]) -> None:
    machine = new_machine(Config(limits=Limits(association_secrets=1, retrievable_secrets=1)))
    guest, _ = keyed(machine, "payments")
    with pytest.raises(UvError, match="1 retrievable"):
        add(machine, guest, SecretKind.PLAINTEXT, TEXT)
    add(machine, guest, SecretKind.ASSOCIATION, bytes(32))
    with pytest.raises(UvError, match="1 association"):
        add(machine, guest, SecretKind.ASSOCIATION, bytes(32))
