"""The order of calls as a host meets it: T3, T4 and T14 of the must-test list."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from keyvisor_firmware.storage.pages import MIB, PAGE, Span
from keyvisor_guest.errors import Refused

from .world import FEW, SMALL, TWO_GIB, World, refused

NOBODY = 0x1234


def test_part1_T3_before_init_only_the_query_answers(world: World) -> None:
    host = world.host
    host.query_storage()
    frame = host.memory.allocate("frame", PAGE)
    before = world.picture()
    for call in (
        lambda: host.create_guest(
            "payments",
            base=frame,
            base_length=PAGE,
            virtual=0,
            virtual_length=PAGE,
            storage_length=PAGE,
            asce=frame,
            sca=frame,
        ),
        lambda: host.create_cpu(NOBODY, 0, storage=frame, storage_length=PAGE),
        lambda: host.set_parameters(NOBODY, frame, 16),
        lambda: host.unpack(NOBODY, 0, PAGE, tweak=bytes(8), offset=0),
        lambda: host.verify(NOBODY),
        lambda: host.run(NOBODY),
        lambda: host.destroy_cpu(NOBODY),
        lambda: host.destroy_guest(NOBODY),
    ):
        with refused("uv", 0x0003):
            call()
    assert world.picture() == before
    assert world.host.storage().initialised is False


def test_part1_T3_nothing_is_done_for_a_handle_that_nobody_has(world: World) -> None:
    given = world.booted()
    cpu = given.cpus[0][0]
    for handle in (NOBODY, cpu):
        for call in (
            lambda h: world.host.create_cpu(h, 0, storage=0x2000, storage_length=PAGE),
            lambda h: world.host.set_parameters(h, 0x2000, 16),
            lambda h: world.host.unpack(h, 0, PAGE, tweak=bytes(8), offset=0),
            lambda h: world.host.verify(h),
            lambda h: world.host.run(h),
            lambda h: world.host.destroy_guest(h),
        ):
            before = world.picture()
            with refused("uv", 0x0020):
                call(handle)
            assert world.picture() == before
    for handle in (NOBODY, given.handle):
        with refused("uv", 0x0021):
            world.host.destroy_cpu(handle)


def test_part1_T3_every_step_is_refused_in_every_state_but_its_own(world: World) -> None:
    """The whole way of a guest; at each stop, all steps that are not next are tried, and change nothing."""
    kernel, image = world.kernel, world.image()
    given = kernel.create()
    kernel.back(given)
    header = kernel.frame().start
    world.host.memory.write(header, image.header)
    for component in image.components:
        place = component.placement
        world.host.memory.write(given.absolute(place.address), component.pages)
    free = given.absolute(0)

    def unpack() -> None:
        for component in image.components:
            place = component.placement
            world.host.unpack(
                given.handle, place.address, len(component.pages), tweak=place.tweak_prefix, offset=0
            )

    def export() -> None:
        world.host.export_pages("payments", image.components[0].placement.address, PAGE)

    calls: dict[str, Callable[[], object]] = {
        "set parameters": lambda: world.host.set_parameters(given.handle, header, len(image.header)),
        "unpack": unpack,
        "verify": lambda: world.host.verify(given.handle),
        "run": lambda: world.host.run(given.handle),
        "export": export,
        "import": lambda: world.host.import_pages("payments", 0, PAGE),
    }

    def only(*allowed: str) -> None:
        before = world.picture()
        for name, call in calls.items():
            if name not in allowed:
                with refused("uv", 0x0180):
                    call()
        assert world.picture() == before

    only("set parameters")
    calls["set parameters"]()
    only("unpack", "verify")
    with pytest.raises(Refused):
        calls["verify"]()  # nothing is unpacked, which is not what the header says
    calls["unpack"]()
    only("unpack", "verify")
    with refused("uv", 0x0109):
        calls["unpack"]()
    calls["verify"]()
    only("export", "import")  # and not run: there is no CPU
    kernel.cpu(given)
    only("run", "export", "import")
    calls["run"]()
    only("export", "import")
    with refused("uv", 0x0190):
        world.host.destroy_guest(given.handle)
    calls["import"]()
    assert world.host.guests()[0].state == "running"
    assert not world.holdings.host.zone.is_free(free, free + PAGE)


def test_part1_T3_a_cpu_twice_and_a_cpu_too_many(world: World) -> None:
    given = world.kernel.create()
    world.kernel.cpu(given, 1)
    span = world.kernel.frame()
    before = world.picture()
    for number, code in ((1, 0x0104), (SMALL.max_cpus, 0x0103)):
        with refused("uv", code):
            world.host.create_cpu(given.handle, number, storage=span.start, storage_length=PAGE)
    assert world.picture() == before
    world.kernel.cpu(given, SMALL.max_cpus - 1)


def test_part1_T3_destroying_twice_finds_nobody(world: World) -> None:
    given = world.booted()
    cpu = given.cpus[0][0]
    world.kernel.destroy(given)
    before = world.picture()
    with refused("uv", 0x0021):
        world.host.destroy_cpu(cpu)
    with refused("uv", 0x0020):
        world.host.destroy_guest(given.handle)
    assert world.picture() == before


def test_part1_T4_init_is_done_once(world: World) -> None:
    zone = world.kernel.init()
    other = zone.end
    before = world.picture()
    for start in (zone.start, other):
        with refused("uv", 0x0101):
            world.host.init(start, zone.length)
    assert world.picture() == before
    world.again()
    with refused("uv", 0x0101):
        world.host.init(other, zone.length)
    assert world.holdings.zone == zone


@pytest.mark.parametrize(
    ("origin", "more", "code"),
    [
        (TWO_GIB, PAGE, 0x0103),
        (TWO_GIB, -PAGE, 0x0103),
        (TWO_GIB, -MIB, 0x0103),
        (TWO_GIB + PAGE, 0, 0x0104),
        (SMALL.size, 0, 0x0104),
        (SMALL.size - 8, 0, 0x0105),
        (TWO_GIB - MIB, 0, 0x0108),
        (MIB, 0, 0x0108),
    ],
)
def test_part1_T4_an_init_that_is_refused_is_not_the_one_there_is(
    world: World, origin: int, more: int, code: int
) -> None:
    length = world.host.query_storage().zone_base
    before = world.picture()
    with refused("uv", code):
        world.host.init(origin, length + more)
    assert world.picture() == before
    world.host.init(TWO_GIB, length)


def test_part1_T14_as_many_guests_as_the_query_says_and_no_more(world: World) -> None:
    most = world.host.query_storage().max_guests
    assert most == FEW.guests
    given = [world.kernel.create(f"guest-{number}", MIB) for number in range(most)]
    offer = world.kernel.prepare("one-more", MIB)
    before = world.picture()
    with refused("uv", 0x0191) as info:
        world.kernel.donate(offer)
    assert str(most) in str(info.value)
    assert world.picture() == before
    world.again()
    with refused("uv", 0x0191):
        world.kernel.donate(offer)
    world.kernel.destroy(given[2])
    assert world.kernel.donate(offer).handle not in {one.handle for one in given}


def test_part1_T14_unfinished_guests_count(world: World) -> None:
    offers = [world.kernel.prepare(f"guest-{number}", MIB) for number in range(FEW.guests + 1)]
    for offer in offers[:-1]:
        with refused("uv", 0x810C):
            world.kernel.donate(offer, sca=0)
    with refused("uv", 0x0191):
        world.kernel.donate(offers[-1])


def test_part1_T14_a_name_is_one_guests(world: World) -> None:
    world.kernel.create(memory=MIB)
    offer = world.kernel.prepare(memory=MIB)
    before = world.picture()
    with pytest.raises(Refused, match="payments"):
        world.kernel.donate(offer)
    assert world.picture() == before


def test_part1_T14_more_ranges_than_the_table_has_are_refused_whole(new_world: Callable[..., World]) -> None:
    """A variable area in more pieces than there are slots left: none of it becomes secure."""
    world = new_world(FEW, type(SMALL)(size=SMALL.size, max_cpus=4, ranges=8))
    offer = world.kernel.prepare(pieces=7)
    before = world.picture()
    with refused("uv", 0x0181):
        world.kernel.donate(offer)
    assert world.picture() == before
    given = world.kernel.donate(world.kernel.prepare("billing", pieces=6))
    assert len(world.holdings.slots) == 8
    cpu = world.kernel.frame()
    with refused("uv", 0x0181):
        world.host.create_cpu(given.handle, 0, storage=cpu.start, storage_length=PAGE)
    assert world.host.memory.read(cpu.start, PAGE) == bytes(PAGE)
    world.kernel.destroy(given)
    assert world.holdings.host.zone.is_free(0, TWO_GIB)
    assert Span(TWO_GIB, world.host.query_storage().zone_base) == world.holdings.zone
