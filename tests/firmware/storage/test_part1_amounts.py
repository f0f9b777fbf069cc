"""What the query tells, as a host sees it: T1 and T2 of the must-test list, and that the amounts are what is really used."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from keyvisor_firmware.config import Limits, StorageLimits
from keyvisor_firmware.secrets import ReturnCode, UvError, encode_state
from keyvisor_firmware.storage.draft import Draft
from keyvisor_firmware.storage.pages import MIB, PAGE, Span
from keyvisor_firmware.storage.query import MAX_ADDRESS
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind

from .test_amounts import longest_store
from .world import FEW, TWO_GIB, World, refused

ROOMY = StorageLimits(size=1 << 40, max_cpus=8, ranges=4096)


def fill(world: World, name: str, limits: Limits) -> None:
    """A guest whose secret store is full, of the longest secrets there are."""
    given = world.booted(name)
    for number in range(limits.association_secrets):
        world.add_secret(given, f"association {number}")
    for number in range(limits.retrievable_secrets):
        longest = KINDS[SecretKind.PLAINTEXT].lengths[-1]
        world.add_secret(given, f"text {number}", b"t" * longest, SecretKind.PLAINTEXT)
    for kind, length in ((SecretKind.ASSOCIATION, 32), (SecretKind.PLAINTEXT, 16)):
        with pytest.raises(UvError) as full:
            world.add_secret(given, "one too many", b"x" * length, kind)
        assert full.value.rc == ReturnCode.STORE_FULL == 0x010B
    assert world.secrets(given) == limits.association_secrets + limits.retrievable_secrets


def test_part1_T1_the_query_is_the_same_before_under_load_and_after(new_world: Callable[..., World]) -> None:
    """50 guests with secrets and CPUs; uninitialised, full, restarted, empty: not one byte of the answer differs."""
    limits = dataclasses.replace(FEW, guests=50)
    world = new_world(limits, ROOMY)
    before = world.host.query_block()
    assert world.host.query_block() == before
    given = [world.booted(f"guest-{number}", cpus=(0, 3)) for number in range(limits.guests)]
    for one in given[:5]:
        world.add_secret(one, "a")
    world.host.export_pages("guest-7", 0x17000, PAGE)
    assert world.host.query_block() == before
    world.again()
    assert world.host.query_block() == before
    for one in given:
        world.kernel.destroy(one)
    assert world.host.query_block() == before


def test_part1_T1_the_amounts_are_told_one_by_one_and_taken_one_by_one(world: World) -> None:
    """Each is a donation of its own, as long as told: the ledger has a line for each."""
    query = world.host.query_storage()
    world.booted(memory=3 * MIB, cpus=(0, 1))
    held = {(line.holder, line.use): line.length for line in world.host.storage().held if line.secure}
    assert held == {
        ("firmware", "zone base"): query.zone_base,
        ("payments", "guest base"): query.guest_base,
        ("payments", "guest variable"): query.guest_base_virtual + 3 * query.guest_per_mib,
        ("payments", "cpu"): 2 * query.cpu,
        ("payments", "guest memory"): 2 * PAGE,
    }


def test_part1_T1_the_query_changes_nothing(world: World) -> None:
    world.kernel.create()
    before = world.picture()
    for length in (0, 0xA7):
        with refused("uv", 0x0005):
            world.host.query_block(length)
    for length in (0xA8, 0x120, 0x1000):
        world.host.query_block(length)
    assert world.picture() == before


def test_part1_T1_a_full_store_fits_and_one_secret_more_is_refused(world: World) -> None:
    world.kernel.init()
    fill(world, "payments", FEW)
    world.again()
    fill(world, "billing", FEW)


def test_part1_T1_the_longest_store_there_can_be_has_room_and_not_a_page_to_spare(world: World) -> None:
    given = world.booted()
    guest = world.configuration(given)
    state = longest_store(FEW.association_secrets, FEW.retrievable_secrets)
    with world.database.transaction() as records:
        draft = Draft(world.holdings, records)
        draft.put_store(guest, world.sealer.seal(encode_state(state), b""))
    area = world.holdings.store_area(guest)
    used = sum(len(world.stored(span)) for span in area)
    assert used * PAGE == sum(span.length for span in area)


def test_part1_T1_how_many_secrets_fit_follows_from_the_donation(world: World) -> None:
    """The limits are raised while a guest is there: it keeps the room that was donated for it, and a new guest has more."""
    given = world.booted()
    more = dataclasses.replace(FEW, association_secrets=200)
    before = world.host.query_storage()
    world.again(limits=more)
    assert world.host.query_storage().guest_base_virtual > before.guest_base_virtual
    for number in range(FEW.association_secrets):
        world.add_secret(given, f"association {number}")
    with pytest.raises(UvError) as full:
        world.add_secret(given, "one too many")
    assert full.value.rc == ReturnCode.STORE_FULL
    fill(world, "billing", more)
    world.host.export_pages("payments", 0x17000, PAGE)  # its page records are where they were
    world.host.import_pages("payments", 0x17000, PAGE)
    assert world.read(given, 0x17000).startswith(b"kernel of payments")


def test_part1_T1_lower_limits_do_not_take_room_away(new_world: Callable[..., World]) -> None:
    world = new_world(dataclasses.replace(FEW, association_secrets=6))
    given = world.booted()
    world.again(limits=dataclasses.replace(FEW, association_secrets=1))
    for number in range(6):
        world.add_secret(given, f"association {number}")
    world.again()
    assert world.secrets(given) == 6
    world.kernel.destroy(given)
    assert world.host.storage().secure == world.host.query_storage().zone_base


@pytest.mark.parametrize(
    ("length", "charged"),
    [(PAGE, 0), (MIB - PAGE, 0), (MIB, 1), (MIB + PAGE, 1), (2 * MIB - PAGE, 1), (64 << 30, 65536)],
)
def test_part1_T2_whole_mib_are_charged_and_a_part_is_not(
    new_world: Callable[..., World], length: int, charged: int
) -> None:
    """And the guest's last page has its record in that donation, whatever the length."""
    world = new_world(FEW, ROOMY)
    query = world.host.query_storage()
    variable = query.guest_base_virtual + charged * query.guest_per_mib
    assert query.guest_virtual(length) == variable
    offer = world.kernel.prepare(memory=length)
    for wrong in (variable - PAGE, variable + PAGE):
        with refused("uv", 0x0190):
            world.kernel.donate(offer, virtual_length=wrong)
    given = world.kernel.donate(offer)
    draft_records = world.holdings.records_at(world.configuration(given))
    assert draft_records + length // PAGE * 32 <= variable


def test_part1_T2_a_guest_of_less_than_a_mib_boots_and_its_last_page_is_its_own(world: World) -> None:
    given = world.booted(memory=0x1B000)
    last = given.memory - PAGE
    world.host.import_pages("payments", last, PAGE)
    world.write(given, last, b"the last page")
    world.host.export_pages("payments", last, PAGE)
    world.host.import_pages("payments", last, PAGE)
    assert world.read(given, last).startswith(b"the last page")


def test_part1_T2_no_storage_at_all_is_no_guest(world: World) -> None:
    offer = world.kernel.prepare()
    for length in (0, PAGE - 1, MIB + 1):
        before = world.picture()
        with refused("uv", 0x0102):
            world.kernel.donate(offer, storage_length=length)
        assert world.picture() == before


def test_part1_T2_the_largest_guest_is_the_highest_address_and_not_a_page_more(world: World) -> None:
    query = world.host.query_storage()
    assert query.max_address == MAX_ADDRESS
    offer = world.kernel.prepare()
    before = world.picture()
    for origin, length, code in (
        (0, MAX_ADDRESS + PAGE, 0x0102),
        (PAGE, MAX_ADDRESS, 0x0102),
        (MAX_ADDRESS, PAGE, 0x0102),
        (MAX_ADDRESS + PAGE, PAGE, 0x0101),
        (0, MAX_ADDRESS, 0x0190),  # would be fine: the area that is offered for it is too short
    ):
        with refused("uv", code):
            world.kernel.donate(offer, storage_origin=origin, storage_length=length)
    assert world.picture() == before


def test_part1_T2_a_terabyte_is_donated_as_fast_as_a_page(new_world: Callable[..., World]) -> None:
    """The table has one range for it, and the database no page: what nobody touches costs nothing."""
    world = new_world(FEW, ROOMY)
    given = world.kernel.donate(world.kernel.prepare(memory=512 << 30, pieces=1))
    ranges = world.holdings.host.zone.of_domain(given.handle)
    assert sum(one.length for one in ranges) > 4 << 30
    assert len(ranges) == 2
    assert not world.stored(given.variable[0])
    assert Span(TWO_GIB, 1) < given.variable[0]  # too long for what is below 2 GiB
