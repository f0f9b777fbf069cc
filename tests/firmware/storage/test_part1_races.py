"""Hosts that race: threads at one firmware, which start guests of the same name and of others, and give storage by hand."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence

import pytest

from keyvisor_firmware.config import Limits, StorageLimits
from keyvisor_firmware.storage.pages import MIB, PAGE
from keyvisor_guest.errors import GuestThere, NotRunning, Refused, SdkError

from ...in_process_host import InProcessHost
from .world import FEW, SMALL, TWO_GIB, Offer, World

MANY = Limits(guests=16, association_secrets=3, retrievable_secrets=2)
MEMORY = 2 * MIB


def together(works: Sequence[Callable[[], object]]) -> list[object]:
    """Do all of it at the same time; what each gave, or raised."""
    gate, outcomes = threading.Barrier(len(works)), [None] * len(works)

    def one(number: int) -> None:
        gate.wait()
        try:
            outcomes[number] = works[number]()  # type: ignore[call-overload]
        except BaseException as error:
            outcomes[number] = error  # type: ignore[call-overload]

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return list(outcomes)


def require_consistent(world: World) -> None:
    """The tables are those of the database, and every guest there is runs and has what it needs."""
    world.require_agreement()
    query = world.host.query_storage()
    held = {(line.holder, line.use): line.length for line in world.host.storage().held if line.secure}
    for guest in world.host.guests():
        assert guest.state == "running"
        assert held[guest.name, "guest base"] == query.guest_base
        assert held[guest.name, "guest variable"] == query.guest_virtual(MEMORY)
        assert held[guest.name, "cpu"] == query.cpu * len(guest.cpus)
    assert sum(held.values()) == world.host.storage().secure


def require_all_free(world: World) -> None:
    """Every guest can be stopped, and then only the zone's base storage is in use."""
    for guest in world.host.guests():
        world.host.stop(guest.name)
    (line,) = world.host.storage().held
    assert (line.use, line.length) == ("zone base", world.host.query_storage().zone_base)
    world.require_agreement()


def test_hosts_start_guests_of_different_names_at_once(new_world: Callable[..., World]) -> None:
    """The first of them initialises the firmware, whoever that is; all of them succeed."""
    world = new_world(MANY, StorageLimits(size=TWO_GIB + 64 * MIB, max_cpus=4, ranges=1024))
    image = world.image_file()
    names = [f"guest-{number}" for number in range(8)]
    outcomes = together(
        [
            lambda name=name: InProcessHost(world.firmware).start(name, image, memory=MEMORY, cpus=2)
            for name in names
        ]
    )
    assert [error for error in outcomes if isinstance(error, BaseException)] == []
    assert sorted(guest.name for guest in world.host.guests()) == names
    require_consistent(world)
    world.again()
    require_consistent(world)
    require_all_free(world)


def test_of_hosts_that_start_one_name_at_once_exactly_one_does(new_world: Callable[..., World]) -> None:
    world = new_world(MANY, StorageLimits(size=TWO_GIB + 64 * MIB, max_cpus=4, ranges=1024))
    image = world.image_file()
    for _ in range(5):
        outcomes = together(
            [lambda: InProcessHost(world.firmware).start("payments", image, memory=MEMORY) for _ in range(4)]
        )
        losers = [error for error in outcomes if isinstance(error, BaseException)]
        assert len(losers) == 3
        assert all(isinstance(error, GuestThere | Refused) for error in losers), losers
        require_consistent(world)
        world.host.stop("payments")
        require_all_free(world)


def test_starts_and_stops_at_once_leave_nothing(new_world: Callable[..., World]) -> None:
    """Hosts that stop what others are starting: some are refused, and nothing is lost."""
    world = new_world(MANY, StorageLimits(size=TWO_GIB + 64 * MIB, max_cpus=4, ranges=1024))
    image = world.image_file()

    def start_and_stop(name: str) -> None:
        host = InProcessHost(world.firmware)
        for _ in range(5):
            for call in (lambda: host.start(name, image, memory=MEMORY), lambda: host.stop(name)):
                with contextlib.suppress(GuestThere, Refused, NotRunning):
                    call()

    outcomes = together([lambda name=name: start_and_stop(name) for name in ("a", "a", "b", "b")])
    assert outcomes == [None] * 4
    world.require_agreement()
    world.again()
    world.require_agreement()
    for name in ("a", "b"):
        with contextlib.suppress(NotRunning):
            world.host.stop(name)
    require_all_free(world)


def test_of_hosts_that_clear_up_none_maps_into_what_is_anothers_by_now(world: World) -> None:
    """A host's reservations are given back under it, and its address space becomes another guest's: it maps nothing there."""
    slow = world.kernel.frame(label="guest slow")
    world.host.memory.map(slow.start, 0, slow.start, PAGE, "guest slow")
    world.host.memory.free("guest slow")
    given = world.kernel.create()
    assert given.asce == slow.start
    before = world.picture()
    with pytest.raises(Refused, match="not reserved under `guest slow` any more"):
        world.host.memory.map(slow.start, given.virtual, slow.start, PAGE, "guest slow")
    assert world.picture() == before
    world.host.memory.free("guest payments")
    assert world.kernel.frame().start != given.asce
    world.kernel.destroy(given)


def test_of_hosts_that_clear_up_none_writes_into_what_is_anothers_by_now(world: World) -> None:
    """A start that is still loading after another host's stop does not touch the next start's frames."""
    memory = world.host.memory
    at = memory.allocate("guest slow", 2 * PAGE)
    memory.write(at, b"loading", "guest slow")
    memory.free("guest slow")
    assert memory.allocate("guest next", PAGE) == at
    memory.write(at, b"the other's", "guest next")
    with pytest.raises(Refused, match="not reserved under `guest slow` any more"):
        memory.write(at, b"late", "guest slow")
    with pytest.raises(Refused, match="not reserved under `guest next` any more"):
        memory.write(at, bytes(2 * PAGE), "guest next")  # all of it has to be
    assert memory.read(at, 11) == b"the other's"
    memory.free("guest next")


def test_a_name_that_is_taken_is_told_before_what_is_offered(world: World) -> None:
    given = world.kernel.create("payments")
    with pytest.raises(Refused, match="guest `payments` is there already"):
        world.kernel.host.create_guest(
            "payments",
            base=given.base.start,  # secure already
            base_length=1,
            virtual=0,
            virtual_length=0,
            storage_length=0,
            asce=given.asce,
            sca=0,
        )
    world.kernel.destroy(given)


def test_a_page_is_one_guests_however_many_are_offered_it_at_once(new_world: Callable[..., World]) -> None:
    """Hosts by hand offer the same base area, and the same CPU storage: one of them is taken, whole."""
    world = new_world(MANY)
    offers = [world.kernel.prepare(f"guest-{number}", MIB) for number in range(4)]
    same = [Offer(offer.name, offer.asce, offer.sca, offers[0].base, offer.variable, MIB) for offer in offers]
    outcomes = together([lambda offer=offer: world.kernel.donate(offer) for offer in same])
    refused = [error for error in outcomes if isinstance(error, Refused)]
    assert [error.code for error in refused] == [0x0108] * 3
    (given,) = [one for one in outcomes if not isinstance(one, Refused)]
    span = world.kernel.frame()
    cpus = together(
        [
            lambda number=number: world.host.create_cpu(
                given.handle,  # type: ignore[attr-defined]
                number,
                storage=span.start,
                storage_length=PAGE,
            )
            for number in range(3)
        ]
    )
    assert sorted(error.code for error in cpus if isinstance(error, Refused)) == [0x0105] * 2
    world.require_agreement()


def test_of_hosts_that_initialise_at_once_one_does(world: World) -> None:
    outcomes = together([lambda: InProcessHost(world.firmware).init() for _ in range(4)])
    refused = [error for error in outcomes if error is not None]
    assert [getattr(error, "code", error) for error in refused] == [0x0101] * 3
    (line,) = world.host.storage().held
    assert line.use == "zone base"
    world.require_agreement()


def test_the_last_place_is_one_guests(new_world: Callable[..., World]) -> None:
    """As many starts at once as there are places, and one more."""
    world = new_world(FEW, StorageLimits(size=SMALL.size + 32 * MIB, max_cpus=4, ranges=1024))
    image = world.image_file()
    outcomes = together(
        [
            lambda number=number: InProcessHost(world.firmware).start(f"g{number}", image, memory=MEMORY)
            for number in range(FEW.guests + 2)
        ]
    )
    losers = [error for error in outcomes if isinstance(error, SdkError)]
    assert [getattr(error, "code", error) for error in losers] == [0x0191] * 2
    assert len(world.host.guests()) == FEW.guests
    require_consistent(world)
    require_all_free(world)


@pytest.mark.parametrize("turn", range(3))
def test_accesses_while_a_page_goes_and_comes_are_right_or_refused(world: World, turn: int) -> None:
    """A host that reads and writes a frame while the guest's page in it is exported and imported again and again."""
    given = world.booted()
    world.write(given, 0x17000, b"guest" * 100)
    frame = given.absolute(0x17000)
    ended = threading.Event()
    wrong: list[object] = []

    def page() -> None:
        try:
            for _ in range(20 + turn):
                world.host.export_pages("payments", 0x17000, PAGE)
                world.host.import_pages("payments", 0x17000, PAGE)
        finally:
            ended.set()

    def peek() -> None:
        host = InProcessHost(world.firmware)
        while not ended.is_set():
            try:
                if b"guest" in host.memory.read(frame, PAGE):
                    wrong.append("clear")
            except Refused as refusal:
                if refusal.code != 0x3D:
                    wrong.append(refusal)

    outcomes = together([page, peek, peek])
    assert outcomes == [None] * 3
    assert wrong == []
    assert world.read(given, 0x17000, 500) == b"guest" * 100
    world.require_agreement()
