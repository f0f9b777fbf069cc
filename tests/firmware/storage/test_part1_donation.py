"""What is wrong with an offer, and that nothing of it is taken then: T5 and T6 of the must-test list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import pytest

from keyvisor_firmware.storage.pages import MIB, PAGE, Span

from .world import SMALL, Offer, World, disk_full, refused, shifted

ZONE: Final = 0x8000_0000
OUTSIDE: Final = SMALL.size


# What is offered instead, by what is wrong about it, with the code; a function of what would be right.
WRONG_GUESTS: Final[Mapping[str, tuple[int, Callable[[Offer], dict[str, int]]]]] = {
    "a base that is short": (0x0108, lambda o: {"base_length": o.base.length - PAGE}),
    "a base that is long": (0x0108, lambda o: {"base_length": o.base.length + PAGE}),
    "no base": (0x0108, lambda _: {"base_length": 0}),
    "a base beside a page": (0x0108, lambda o: {"base": o.base.start + 8}),
    "a base on a page that is not a 16 KiB one": (0x0108, lambda o: {"base": o.base.start + PAGE}),
    "a base that ends outside": (0x0108, lambda o: {"base": OUTSIDE - o.base.length + 0x4000}),
    "a base outside": (0x0108, lambda _: {"base": OUTSIDE}),
    "a base far outside": (0x0108, lambda _: {"base": 1 << 52}),
    "a base in the firmware's own": (0x0108, lambda _: {"base": ZONE}),
    "a base that reaches into the firmware's own": (0x0108, lambda _: {"base": ZONE - 0x4000}),
    "a base that covers the lowcore": (0x0109, lambda _: {"base": 0}),
    "a variable area that is short": (0x0190, lambda o: {"virtual_length": length(o) - PAGE}),
    "a variable area that is long": (0x0190, lambda o: {"virtual_length": length(o) + PAGE}),
    "a variable area beside a page": (0x0190, lambda o: {"virtual": o.memory + 8}),
    "a variable area in the guest's storage": (0x0190, lambda _: {"virtual": 0}),
    "a variable area that reaches into the guest's storage": (0x0190, lambda o: {"virtual": o.memory - PAGE}),
    "a variable area with a hole behind it": (0x0105, lambda o: {"virtual": o.memory + PAGE}),
    "an address space that is none": (0x0105, lambda o: {"asce": o.sca}),
    "an address space beside a page": (0x0105, lambda o: {"asce": o.asce + 8}),
    "an address space outside": (0x0105, lambda _: {"asce": OUTSIDE}),
}


def length(offer: Offer) -> int:
    return sum(span.length for span in offer.variable)


@pytest.mark.parametrize("wrong", WRONG_GUESTS)
def test_part1_T5_a_guests_donation_is_checked(world: World, wrong: str) -> None:
    """Refused with no effect at all, for the reason; and what is right is taken after it."""
    code, other = WRONG_GUESTS[wrong]
    offer = world.kernel.prepare()
    before = world.picture()
    with refused("uv", code):
        world.kernel.donate(offer, **other(offer))
    assert world.picture() == before
    world.kernel.donate(offer)
    world.require_agreement()


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("short", 0x0105),
        ("long", 0x0105),
        ("beside a page", 0x0105),
        ("outside", 0x0105),
        ("half outside", 0x0105),
        ("lowcore", 0x0106),
        ("the guest's base", 0x0105),
        ("the guest's variable area", 0x0105),
        ("another CPU's", 0x0105),
        ("the firmware's", 0x0105),
        ("another guest's", 0x0105),
    ],
)
def test_part1_T5_a_cpus_donation_is_checked(world: World, what: str, code: int) -> None:
    other = world.kernel.create("billing", MIB)
    given = world.kernel.create(memory=MIB)
    world.kernel.cpu(given, 1)
    span = world.kernel.frame()
    offered = {
        "short": Span(span.start, 0),
        "long": Span(span.start, 2 * PAGE),
        "beside a page": shifted(span, 8),
        "outside": shifted(span, OUTSIDE - span.start),
        "half outside": shifted(span, OUTSIDE - PAGE // 2 - span.start),
        "lowcore": shifted(span, PAGE - span.start),
        "the guest's base": shifted(span, given.base.end - PAGE - span.start),
        "the guest's variable area": shifted(span, given.variable[1].start - span.start),
        "another CPU's": given.cpus[1][1],
        "the firmware's": shifted(span, ZONE - span.start),
        "another guest's": shifted(span, other.base.start - span.start),
    }[what]
    before = world.picture()
    with refused("uv", code):
        world.host.create_cpu(given.handle, 0, storage=offered.start, storage_length=offered.length)
    assert world.picture() == before
    world.kernel.cpu(given, 0)


def variants(offer: Offer, other: Offer) -> Mapping[str, tuple[int, int]]:
    """Which page of the variable area is to be which page of storage instead: one that cannot be taken."""
    first, last = offer.memory, offer.memory + length(offer) - PAGE
    return {
        "the first is the base's first": (first, offer.base.start),
        "the last is the base's last": (last, offer.base.end - PAGE),
        "the last is the first": (last, offer.variable[0].start),
        "the middle is its neighbour": (first + 2 * PAGE, offer.variable[0].start + PAGE),
        "the last is the firmware's": (last, ZONE),
        "the last is another guest's base": (last, other.base.start),
        "the last is another guest's variable area": (last, other.variable[-1].end - PAGE),
        "the first is the lowcore": (first, PAGE),
    }


KINDS_OF_PAGE: Final = (
    "the first is the base's first",
    "the last is the base's last",
    "the last is the first",
    "the middle is its neighbour",
    "the last is the firmware's",
    "the last is another guest's base",
    "the last is another guest's variable area",
    "the first is the lowcore",
)


@pytest.mark.parametrize("wrong", KINDS_OF_PAGE)
def test_part1_T5_every_page_of_a_scattered_area_is_checked(world: World, wrong: str) -> None:
    other = world.kernel.prepare("billing", MIB)
    world.kernel.donate(other)
    offer = world.kernel.prepare(memory=MIB)
    found = variants(offer, other)
    assert set(found) == set(KINDS_OF_PAGE)
    virtual, absolute = found[wrong]
    world.host.memory.map(offer.asce, virtual, absolute, PAGE)
    before = world.picture()
    with refused("uv", 0x0109 if "lowcore" in wrong else 0x0190):
        world.kernel.donate(offer)
    assert world.picture() == before
    world.kernel.map(offer.asce, offer.memory, offer.variable)
    world.kernel.donate(offer)


@pytest.mark.parametrize("hole", ["first", "middle", "last"])
def test_part1_T6_a_page_that_is_missing_takes_none_of_the_others(world: World, hole: str) -> None:
    """Page k fails: pages 0 to k-1 are the host's as before, with what it wrote there."""
    offer = world.kernel.prepare()
    spans = [offer.base, *offer.variable]
    for span in spans:
        world.host.memory.write(span.start, b"the host's own")
    at = {"first": 0, "middle": length(offer) // PAGE // 2, "last": length(offer) // PAGE - 1}[hole]
    world.host.memory.unmap(offer.asce, offer.memory + at * PAGE, PAGE)
    with refused("uv", 0x0105):
        world.kernel.donate(offer)
    for span in spans:
        assert world.host.memory.read(span.start, 14) == b"the host's own"
        assert world.holdings.host.zone.is_free(span.start, span.end)
    assert world.host.guests() == []
    world.require_agreement()


def test_part1_T6_a_commit_that_fails_takes_nothing(world: World) -> None:
    """The donation is checked and fine, and the disk is full: nothing is secure, in memory and after a restart."""
    offer = world.kernel.prepare()
    before = world.picture()
    for name, call in {
        "guest": lambda: world.kernel.donate(offer),
    }.items():
        world.fail(disk_full())
        with pytest.raises(Exception, match="disk is full"):
            call()
        assert world.picture() == before, name
    world.again()
    assert world.picture() == before
    given = world.kernel.donate(offer)
    span = world.kernel.frame()
    before = world.picture()
    world.fail(disk_full())
    with pytest.raises(Exception, match="disk is full"):
        world.host.create_cpu(given.handle, 0, storage=span.start, storage_length=PAGE)
    assert world.picture() == before
    assert world.host.memory.read(span.start, PAGE) == bytes(PAGE)


def test_part1_T6_an_init_whose_commit_fails_is_none(world: World) -> None:
    length = world.host.query_storage().zone_base
    world.host.memory.write(ZONE, b"the host's own")
    before = world.picture()
    world.fail(disk_full())
    with pytest.raises(Exception, match="disk is full"):
        world.host.init(ZONE, length)
    assert world.picture() == before
    world.again()
    assert world.picture() == before
    world.host.init(ZONE, length)


def test_part1_T6_a_sealer_that_fails_takes_no_storage_for_a_cpu(world: World) -> None:
    given = world.kernel.create()
    span = world.kernel.frame()
    world.host.memory.write(span.start, b"the host's own")
    before = world.picture()
    world.sealer.broken = True
    with pytest.raises(Exception, match="token is gone"):
        world.host.create_cpu(given.handle, 0, storage=span.start, storage_length=PAGE)
    world.sealer.broken = False
    assert world.picture() == before
    assert world.host.memory.read(span.start, 14) == b"the host's own"


def test_part1_T6_a_refused_donation_is_recorded(world: World) -> None:
    offer = world.kernel.prepare()
    with refused("uv", 0x0108):
        world.kernel.donate(offer, base=ZONE)
    last = world.events()[-1]
    assert (last.event, last.guest, last.detail["outcome"]) == (
        "donate storage for guest",
        "payments",
        "refused",
    )
    assert "0x0108" in last.detail["reason"]
