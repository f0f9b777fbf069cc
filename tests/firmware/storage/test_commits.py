"""Commands on storage whose commit fails, as on a full disk: database, tables in memory and gates are as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from keyvisor_firmware.errors import StorageRefused
from keyvisor_firmware.storage.donations import CpuOffer
from keyvisor_firmware.storage.guest_record import UnpackedRun
from keyvisor_firmware.storage.lifecycle import GuestState
from keyvisor_firmware.storage.pages import LOWCORE, PAGE, Span
from keyvisor_firmware.storage.return_codes import NEEDS_DESTROY, StorageCode
from keyvisor_guest.hosting.image_loading import load

from ..machine import HSM, Machine
from ..offers import another_offer

Command = Callable[[], object]
KERNEL_AT = 0x17000


@contextmanager
def full_disk(machine: Machine, after: int = 0) -> Iterator[None]:
    """The commit that comes after `after` more fails, and no other."""
    left = iter([False] * after + [True])

    def commit(_connection: object) -> None:
        if next(left, False):
            raise OperationalError("COMMIT", {}, Exception("disk full"))

    engine = machine.database._engine
    event.listen(engine, "commit", commit)
    try:
        yield
    finally:
        event.remove(engine, "commit", commit)
    assert next(left, None) is None, "there was no such commit"


def allocated(machine: Machine, length: int = PAGE) -> int:
    return machine.host.memory.allocate("a test's", length, PAGE, LOWCORE)


def _init(machine: Machine) -> Command:
    length = machine.holdings.amounts.zone_base
    return lambda: machine.firmware.donations.init(Span(1 << 31, length))


def _create(machine: Machine) -> Command:
    machine.host.init()
    offer = another_offer(machine)
    return lambda: machine.firmware.donations.create_guest("payments", offer)


def _create_cpu(machine: Machine) -> Command:
    handle = machine.start_until("set_parameters", "payments")
    offer = CpuOffer(7, allocated(machine), PAGE)
    return lambda: machine.firmware.donations.create_cpu(handle, offer)


def _set_parameters(machine: Machine) -> Command:
    handle = machine.start_until("set_parameters", "payments")
    header = load(machine.image("payments")).header
    at = allocated(machine)
    machine.host.memory.write(at, header)
    return lambda: machine.firmware.booting.set_parameters(handle, Span(at, len(header)))


def _unpack(machine: Machine) -> Command:
    handle = machine.start_until("unpack", "payments")
    return lambda: machine.firmware.booting.unpack(handle, UnpackedRun(KERNEL_AT, PAGE, bytes(8), 0))


def _verify(machine: Machine) -> Command:
    handle = machine.start_until("verify", "payments")
    return lambda: machine.firmware.booting.verify(handle)


def _start(machine: Machine) -> Command:
    handle = machine.start_until("start_guest", "payments")
    return lambda: machine.firmware.booting.start(handle)


def _running(machine: Machine) -> int:
    machine.ready("payments", HSM)
    return machine.configuration("payments").row.handle


def _export(machine: Machine) -> Command:
    handle = _running(machine)
    return lambda: machine.firmware.paging.export_pages(handle, Span(KERNEL_AT, PAGE))


def _import(machine: Machine) -> Command:
    handle = _running(machine)
    machine.host.export_pages("payments", KERNEL_AT, PAGE)
    return lambda: machine.firmware.paging.import_pages(handle, Span(KERNEL_AT, PAGE))


def _guest_write(machine: Machine) -> Command:
    _running(machine)
    instance = machine.configuration("payments").instance
    return lambda: machine.firmware.paging.write(instance.id, KERNEL_AT + 5, b"another")


def _add_secret(machine: Machine) -> Command:
    _running(machine)
    instance = machine.configuration("payments").instance
    request = machine.request(instance, "another")
    return lambda: machine.firmware.add_secret(instance.id, request)


def _destroy_cpu(machine: Machine) -> Command:
    _running(machine)
    (cpu,) = machine.configuration("payments").known.cpus
    return lambda: machine.firmware.donations.destroy_cpu(cpu.handle)


def _destroy_guest(machine: Machine) -> Command:
    handle = _running(machine)
    _destroy_cpu_of(machine)
    return lambda: machine.firmware.donations.destroy_guest(handle)


def _destroy_cpu_of(machine: Machine) -> None:
    for cpu in machine.configuration("payments").known.cpus:
        machine.firmware.donations.destroy_cpu(cpu.handle)


def _allocate(machine: Machine) -> Command:
    return lambda: machine.firmware.host_storage.allocate("a test's", PAGE, PAGE, LOWCORE)


def _free(machine: Machine) -> Command:
    at = allocated(machine)
    machine.host.memory.write(at, b"content")
    machine.host.memory.map(at, 0, at, PAGE)
    return lambda: machine.firmware.host_storage.free("a test's")


def _map(machine: Machine) -> Command:
    at = allocated(machine)
    return lambda: machine.firmware.host_storage.map(at, 0, Span(at, PAGE))


def _unmap(machine: Machine) -> Command:
    at = allocated(machine)
    machine.host.memory.map(at, 0, at, PAGE)
    return lambda: machine.firmware.host_storage.unmap(at, Span(0, PAGE))


def _host_write(machine: Machine) -> Command:
    at = allocated(machine)
    return lambda: machine.firmware.host_storage.write(at + 9, b"content")


COMMANDS: dict[str, Callable[[Machine], Command]] = {
    "init": _init,
    "create guest": _create,
    "create cpu": _create_cpu,
    "set parameters": _set_parameters,
    "unpack": _unpack,
    "verify": _verify,
    "start": _start,
    "export": _export,
    "import": _import,
    "guest write": _guest_write,
    "add secret": _add_secret,
    "destroy cpu": _destroy_cpu,
    "destroy guest": _destroy_guest,
    "allocate": _allocate,
    "free": _free,
    "map": _map,
    "unmap": _unmap,
    "host write": _host_write,
}


@pytest.mark.parametrize("name", COMMANDS)
def test_part1_T6_a_commit_that_fails_changes_nothing_anywhere(machine: Machine, name: str) -> None:
    command = COMMANDS[name](machine)
    before = machine.picture()
    with full_disk(machine), pytest.raises(OperationalError):
        command()
    assert machine.picture() == before
    machine.require_agreement()
    command()
    assert machine.picture() != before, "the same command, on a disk with room"
    machine.require_agreement()
    machine.again()
    machine.require_agreement()


def test_part1_T13_a_creation_whose_second_half_is_not_written_must_be_destroyed(machine: Machine) -> None:
    command = _create(machine)
    with full_disk(machine, after=1), pytest.raises(StorageRefused) as refused:
        command()
    assert refused.value.code == StorageCode.NOT_WRITTEN.number | NEEDS_DESTROY
    guest = machine.configuration("payments")
    assert (refused.value.handle, guest.slot.state) == (guest.row.handle, GuestState.UNFINISHED)
    machine.require_agreement()
    machine.firmware.donations.destroy_guest(guest.row.handle)
    machine.require_agreement()
    command()
