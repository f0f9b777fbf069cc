"""What the firmware holds, over a restart: the same tables and records, or none at all where a page is not as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import delete, update

from keyvisor_firmware.config import Config, Limits, StorageLimits
from keyvisor_firmware.errors import StateUnusable, StorageRefused
from keyvisor_firmware.secrets import UvError
from keyvisor_firmware.state.schema import GUESTS
from keyvisor_firmware.storage.contents import Contents
from keyvisor_firmware.storage.holdings import Configuration
from keyvisor_firmware.storage.lifecycle import GuestState
from keyvisor_firmware.storage.pages import MIB, PAGE, Span
from keyvisor_firmware.storage.return_codes import StorageCode
from keyvisor_firmware.storage.zone_area import GUEST_SLOT, guest_slot_offset, ranges_offset
from keyvisor_guest.hosting.image_loading import load

from ..machine import ACCELERATOR, HSM, MEMORY, SPARE, Machine
from ..offers import another_offer
from ..simulator import Crash


def read(machine: Machine, span: Span) -> bytes:
    """Storage as it lies in the database, whoever may see it."""
    with machine.database.transaction() as records:
        return Contents(records).read(span)


def write(machine: Machine, start: int, data: bytes) -> None:
    """Write it as whoever has the state directory can."""
    with machine.database.transaction() as records:
        Contents(records).write(start, data)


def slot_of(machine: Machine, guest: Configuration) -> Span:
    zone = machine.holdings.zone
    assert zone is not None
    return Span(zone.start + guest_slot_offset(guest.position), GUEST_SLOT)


# --- as it was


def _two_guests(machine: Machine) -> None:
    machine.ready("payments", HSM, SPARE)
    machine.ready("billing")


def _exported(machine: Machine) -> None:
    machine.start("payments")
    machine.host.export_pages("payments", 0x17000, PAGE)
    machine.host.import_pages("payments", 0, 4 * PAGE)


def _unfinished(machine: Machine) -> None:
    machine.host.init()
    offer = another_offer(machine)
    length = iter([6, 16])  # handle and instance id; what comes then is of the second transaction

    def dying(wanted: int) -> bytes:
        if next(length, None) is None:
            raise Crash
        return b"\x17" * wanted

    machine.randomness = dying
    with pytest.raises(Crash):
        machine.firmware.donations.create_guest("payments", offer)


STORIES: dict[str, tuple[Callable[[Machine], object], GuestState | None]] = {
    "nothing": (lambda machine: None, None),
    "initialised": (lambda machine: machine.host.init(), None),
    "unfinished": (_unfinished, GuestState.UNFINISHED),
    "created": (lambda machine: machine.start_until("set_parameters", "payments"), GuestState.CREATED),
    "header set": (lambda machine: machine.start_until("unpack", "payments"), GuestState.PARAMETERS),
    "unpacked": (lambda machine: machine.start_until("verify", "payments"), GuestState.PARAMETERS),
    "verified": (lambda machine: machine.start_until("start_guest", "payments"), GuestState.VERIFIED),
    "running": (_two_guests, GuestState.RUNNING),
    "exported": (_exported, GuestState.RUNNING),
    "many CPUs": (lambda machine: machine.start("payments", cpus=17), GuestState.RUNNING),
}


@pytest.mark.parametrize("story", STORIES)
def test_a_restart_finds_the_same_and_writes_nothing(machine: Machine, story: str) -> None:
    tell, state = STORIES[story]
    tell(machine)
    tables, rows = machine.tables(), machine.rows()
    if state is not None:
        assert machine.configuration("payments").slot.state is state
    for _ in range(2):
        machine.again()
        assert machine.tables() == tables
        assert machine.rows() == rows
    machine.require_agreement()


def test_a_guest_that_is_unfinished_is_destroyed_and_nothing_else(machine: Machine) -> None:
    """The daemon died between the two transactions of its creation."""
    _unfinished(machine)
    machine.randomness = lambda length: b"\x18" * length
    machine.again()
    (view,) = machine.firmware.list_guests()
    assert (view.name, view.state, view.cpus) == ("payments", GuestState.UNFINISHED, ())
    for command in (machine.firmware.booting.verify, machine.firmware.booting.start):
        with pytest.raises(StorageRefused, match="destroy it") as refused:
            command(view.handle)
        assert refused.value.why is StorageCode.WRONG_STATE
    base = machine.configuration("payments").slot.base
    machine.firmware.donations.destroy_guest(view.handle)
    machine.require_agreement()
    assert [line.use for line in machine.firmware.donations.ledger().held if line.secure] == ["zone base"]
    assert machine.host.memory.read(base.start, base.length) == bytes(base.length)


@pytest.mark.parametrize("last", ["unpack", "verify", "start_guest"])
def test_a_start_goes_on_after_a_restart(machine: Machine, last: str) -> None:
    """Nothing that was handed over is lost: what is left to do is done by another host."""
    handle = machine.start_until(last, "payments")
    machine.again()
    calls = machine.host
    if last == "unpack":
        for run in _runs(machine, "payments"):
            calls.unpack(handle, *run[:2], tweak=run[2], offset=0)
    if last != "start_guest":
        calls.verify(handle)
    assert calls.run(handle).state == "running"
    instance = machine.configuration("payments").instance
    assert machine.firmware.paging.read(instance.id, Span(0x17000, 18)) == b"kernel of payments"


def _runs(machine: Machine, name: str) -> list[tuple[int, int, bytes]]:
    places = [component.placement for component in load(machine.image(name)).components]
    return [(place.address, place.size, place.tweak_prefix) for place in places]


# --- what it looks like


def test_a_record_is_sealed_and_longer_than_nothing(machine: Machine) -> None:
    machine.ready("payments", HSM)
    guest = machine.configuration("payments")
    area, clear = read(machine, guest.slot.base), guest.known.encode()
    assert 0 < int.from_bytes(area[:4], "big") - len(clear) < 64, "a nonce, a tag, and no more"
    for at in range(0, len(clear) - 16, 16):
        part = clear[at : at + 16]
        assert len(set(part)) < 8 or part not in area, "no key, no name, no id"


def test_two_guests_have_nothing_in_common_at_rest(machine: Machine) -> None:
    machine.start("payments")
    machine.start("billing", machine.image("payments"))
    one, other = (machine.configuration(name).known for name in ("payments", "billing"))
    assert one.identity == other.identity
    for name in ("instance", "cuid", "memory_key", "page_key"):
        assert getattr(one, name) != getattr(other, name), name


def test_a_record_is_written_once_and_only_by_a_command_that_changes_it(machine: Machine) -> None:
    """Sealing the same again gives other bytes; the host, who sees that a page changed, sees that something was done."""
    instance = machine.ready("payments", HSM)
    base = machine.configuration("payments").slot.base
    before = read(machine, base)
    machine.firmware.list_hsms(instance.id)
    machine.firmware.paging.write(instance.id, 0x17000, b"changed")
    machine.firmware.attach("payments", ACCELERATOR)
    assert read(machine, base) == before
    machine.firmware.bind(instance.id, ACCELERATOR)
    assert read(machine, base) != before


# --- not as it was


def _flip(at: Callable[[Machine, Configuration], int]) -> Callable[[Machine], None]:
    def flip(machine: Machine) -> None:
        place = at(machine, machine.configuration("payments"))
        (byte,) = read(machine, Span(place, 1))
        write(machine, place, bytes([byte ^ 1]))

    return flip


def _swap(span_of: Callable[[Machine, Configuration], Span]) -> Callable[[Machine], None]:
    def swap(machine: Machine) -> None:
        spans = [span_of(machine, machine.configuration(name)) for name in ("payments", "billing")]
        contents = [read(machine, span) for span in spans]
        for span, content in zip(spans, reversed(contents), strict=True):
            write(machine, span.start, content)

    return swap


def _clear(span_of: Callable[[Machine, Configuration], Span]) -> Callable[[Machine], None]:
    def clear(machine: Machine) -> None:
        span = span_of(machine, machine.configuration("payments"))
        write(machine, span.start, bytes(span.length))

    return clear


def _older(machine: Machine) -> None:
    """The guest's area as an earlier guest of that name left it, in the same place."""
    guest = machine.configuration("payments")
    earlier = read(machine, guest.slot.base)
    machine.stop("payments")
    machine.start("payments")
    assert machine.configuration("payments").slot.base == guest.slot.base
    write(machine, guest.slot.base.start, earlier)


def _zone(machine: Machine) -> int:
    assert machine.holdings.zone is not None
    return machine.holdings.zone.start


def _forget(machine: Machine) -> None:
    with machine.database._engine.begin() as connection:
        connection.execute(delete(GUESTS).where(GUESTS.c.name == "billing"))


def _rename(machine: Machine) -> None:
    """The rows of two guests exchange their handles."""
    handles = {name: machine.configuration(name).row.handle for name in ("payments", "billing")}
    with machine.database._engine.begin() as connection:
        for name, handle in (
            ("payments", 1),
            ("billing", handles["payments"]),
            ("payments", handles["billing"]),
        ):
            connection.execute(update(GUESTS).where(GUESTS.c.name == name).values(handle=handle))


BREAKS: dict[str, tuple[Callable[[Machine], object], str]] = {
    "a record's nonce": (_flip(lambda machine, guest: guest.slot.base.start + 4), "does not open"),
    "a record's middle": (_flip(lambda machine, guest: guest.slot.base.start + 200), "does not open"),
    "a record's length": (_flip(lambda machine, guest: guest.slot.base.start + 3), "does not open"),
    "a record gone": (_clear(lambda machine, guest: guest.slot.base), "does not open"),
    "records swapped": (_swap(lambda machine, guest: guest.slot.base), "does not open"),
    "an older record": (_older, "does not open"),
    "a store's content": (
        _flip(lambda machine, guest: machine.holdings.store_area(guest)[0].start + 99),
        "the secret store of guest `payments` does not open",
    ),
    "stores swapped": (
        _swap(lambda machine, guest: Span(machine.holdings.store_area(guest)[0].start, PAGE)),
        "the secret store of guest `.+` does not open",
    ),
    "the zone's header": (_flip(lambda machine, guest: _zone(machine)), "not the header of a zone"),
    "the zone's header gone": (
        _clear(lambda machine, guest: Span(_zone(machine), PAGE)),
        "not the header of a zone",
    ),
    "a slot's handle": (
        _flip(lambda machine, guest: slot_of(machine, guest).start + 7),
        "names a guest that is not there",
    ),
    "a slot's reserved field": (
        _flip(lambda machine, guest: slot_of(machine, guest).start + GUEST_SLOT - 1),
        "not the slot of a guest",
    ),
    "a slot gone": (_clear(slot_of), "does not name every guest"),
    "a guest's row gone": (_forget, "names a guest that is not there"),
    "guests' handles exchanged": (_rename, "does not open"),
    "a range's flags": (
        _flip(lambda machine, guest: _zone(machine) + ranges_offset(machine.holdings.header.guests) + 7),
        "not the slot of a range",
    ),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_what_is_not_as_the_firmware_left_it_is_refused_at_the_start(machine: Machine, broken: str) -> None:
    """In one line with a way out, and without a byte of it; nothing of it is taken for true."""
    breaks, said = BREAKS[broken]
    machine.guest("payments", secrets=("payments-signing",))
    machine.guest("billing", secrets=("another",))
    breaks(machine)
    with pytest.raises(StateUnusable, match=said) as refused:
        machine.again()
    assert "choose another --state" in str(refused.value)
    assert "\n" not in str(refused.value)


# --- another configuration


def test_storage_that_shrinks_below_what_is_secure_is_refused(machine: Machine) -> None:
    machine.start("payments")
    zone = machine.holdings.zone
    assert zone is not None
    with pytest.raises(StateUnusable, match=r"storage\.size` must not shrink"):
        machine.again(Config(storage=StorageLimits(size=zone.end - MIB)))
    machine.again(Config(storage=StorageLimits(size=zone.end)))
    assert machine.firmware.donations.ledger().size == zone.end
    machine.again(Config(storage=StorageLimits(size=2 * zone.end)))
    machine.require_agreement()
    assert machine.configuration("payments").slot.state is GuestState.RUNNING


FEW = Config(limits=Limits(guests=2, association_secrets=1, retrievable_secrets=1))
MANY = Config(limits=Limits(guests=8, association_secrets=40, retrievable_secrets=40))


def room(machine: Machine, name: str) -> int:
    """How many association secrets a guest takes."""
    instance = machine.configuration(name).instance
    for number in range(1000):
        try:
            machine.firmware.add_secret(instance.id, machine.request(instance, f"secret-{number}"))
        except UvError:
            return number
    raise AssertionError("no end")


@pytest.mark.parametrize(("before", "after"), [(FEW, MANY), (MANY, FEW)], ids=["raised", "lowered"])
def test_a_guest_has_the_room_that_was_donated_for_it(
    new_machine: Callable[..., Machine], before: Config, after: Config
) -> None:
    machine = new_machine(before)
    machine.start("old")
    donated = machine.configuration("old")
    area, at = machine.holdings.store_area(donated), machine.holdings.records_at(donated)
    machine.host.export_pages("old", 0x17000, PAGE)

    machine.again(after)
    guest = machine.configuration("old")
    assert (machine.holdings.store_area(guest), machine.holdings.records_at(guest)) == (area, at)
    machine.host.import_pages("old", 0x17000, PAGE)
    kept = machine.firmware.paging.read(guest.instance.id, Span(0x17000, 13))
    assert kept == b"kernel of old", "its page record is where it was"
    assert room(machine, "old") == before.limits.association_secrets

    machine.start("new")
    assert room(machine, "new") == after.limits.association_secrets
    assert len(machine.firmware.list_secrets(guest.instance.id)[0]) == before.limits.association_secrets
    machine.again()
    machine.require_agreement()
    assert len(machine.firmware.list_secrets(guest.instance.id)[0]) == before.limits.association_secrets


def test_there_are_as_many_guests_as_the_zone_was_donated_for(new_machine: Callable[..., Machine]) -> None:
    """However many the configuration allows now: there are no more slots."""
    machine = new_machine(FEW)
    machine.start("one")
    machine.again(MANY)
    machine.start("two")
    with pytest.raises(StorageRefused) as refused:
        machine.firmware.donations.create_guest("three", another_offer(machine))
    assert refused.value.why is StorageCode.TOO_MANY_GUESTS
    machine.again(Config(limits=Limits(guests=1)))
    assert {view.name for view in machine.firmware.list_guests()} == {"one", "two"}, "those there are stay"
    machine.stop("one")
    with pytest.raises(StorageRefused):
        machine.firmware.donations.create_guest("three", another_offer(machine))
    machine.stop("two")
    machine.start("three")


def test_where_a_guest_lies_follows_from_its_donation(machine: Machine) -> None:
    """The store first, then a record for each page of the guest's storage, to the last byte."""
    machine.start("payments")
    guest, needed = machine.configuration("payments"), machine.holdings.amounts
    assert sum(span.length for span in guest.variable) == needed.variable(MEMORY)
    at = machine.holdings.records_at(guest)
    assert at == needed.secret_store
    assert sum(span.length for span in machine.holdings.store_area(guest)) == at
    assert needed.variable(MEMORY) - at >= MEMORY // PAGE * 32
