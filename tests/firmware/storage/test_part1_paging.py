"""A guest is paged out and in by a host that may lie, as the guest and the host see it (patents, 1.5, 42 and 43)."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from keyvisor_firmware.errors import StorageRefused
from keyvisor_firmware.storage.pages import MIB, PAGE, Span
from keyvisor_firmware.storage.paging_commands import MAX_CONVERTED
from keyvisor_guest.errors import Refused

from .world import FEW, SMALL, Given, Killed, World, disk_full, refused

A, B = 0x17000, 0x18000  # the image's pages; the host has them in two pieces that do not adjoin
TEXT = b"what the guest wrote" * 40


@pytest.fixture
def given(world: World) -> Given:
    """A guest that runs, and has written into its first page."""
    made = world.booted()
    world.write(made, A + 100, TEXT)
    return made


def take(world: World, given: Given, address: int, name: str = "payments") -> bytes:
    """Export a page; what the host finds."""
    world.host.export_pages(name, address, PAGE)
    return world.host.memory.read(given.absolute(address), PAGE)


def test_a_page_goes_and_comes_back_as_it_was(world: World, given: Given) -> None:
    before = world.read(given, A)
    exported = take(world, given, A)
    assert TEXT[:32] not in exported
    assert exported != before
    world.host.import_pages("payments", A, PAGE)
    assert world.read(given, A) == before
    with refused("program", 0x3D):
        world.host.memory.read(given.absolute(A), 1)


def test_a_page_that_is_out_is_not_the_guests_to_touch(world: World, given: Given) -> None:
    take(world, given, A)
    before = world.picture()
    for access in (lambda: world.read(given, A, 1), lambda: world.write(given, A, b"w")):
        with pytest.raises(Exception, match="not secure") as info:
            access()
        assert getattr(info.value, "code", None) == 0x3E
    assert world.picture() == before


def test_a_page_may_come_back_in_another_frame(world: World, given: Given) -> None:
    """The host puts it away, uses the frame for something else, and gives the bytes back elsewhere."""
    old = given.absolute(A)
    exported = take(world, given, A)
    world.host.memory.write(old, b"the host's own now" * 8)
    fresh = world.kernel.frame().start
    world.host.memory.write(fresh, exported)
    world.kernel.remap(given, A, fresh)
    world.host.import_pages("payments", A, PAGE)
    assert world.read(given, A + 100, len(TEXT)) == TEXT
    assert world.host.memory.read(old, 8) == b"the host"
    world.again()
    assert world.read(given, A + 100, len(TEXT)) == TEXT
    world.require_agreement()


def test_both_pages_at_once_wherever_they_are(world: World, given: Given) -> None:
    before = world.read(given, A, 2 * PAGE)
    for _ in range(3):
        world.host.export_pages("payments", A, 2 * PAGE)
        world.host.import_pages("payments", A, 2 * PAGE)
    assert world.read(given, A, 2 * PAGE) == before


def test_every_export_differs(world: World, given: Given) -> None:
    """The same content, the same page: no two exports are alike, and none tells that nothing changed."""
    seen = set()
    for _ in range(5):
        seen.add(take(world, given, A))
        world.host.import_pages("payments", A, PAGE)
    assert len(seen) == 5


def test_an_older_export_is_refused(world: World, given: Given) -> None:
    """Replay: what the guest wrote since cannot be taken from it."""
    old = take(world, given, A)
    world.host.import_pages("payments", A, PAGE)
    world.write(given, A + 100, b"newer")
    new = take(world, given, A)
    world.host.memory.write(given.absolute(A), old)
    before = world.picture()
    for _ in range(2):
        with refused("uv", 0x0186):
            world.host.import_pages("payments", A, PAGE)
        assert world.picture() == before
        world.again()
    world.host.memory.write(given.absolute(A), new)
    world.host.import_pages("payments", A, PAGE)
    assert world.read(given, A + 100, 5) == b"newer"


def test_a_page_of_another_address_is_refused(world: World, given: Given) -> None:
    first, second = take(world, given, A), take(world, given, B)
    world.host.memory.write(given.absolute(A), second)
    world.host.memory.write(given.absolute(B), first)
    before = world.picture()
    for address, length in ((A, PAGE), (B, PAGE), (A, 2 * PAGE)):
        with refused("uv", 0x0186):
            world.host.import_pages("payments", address, length)
    assert world.picture() == before


def test_a_page_of_another_guest_is_refused(world: World, given: Given) -> None:
    """The same address, the same version: still not this guest's."""
    other = world.booted("billing")
    mine, theirs = take(world, given, A), take(world, other, A, "billing")
    world.host.memory.write(given.absolute(A), theirs)
    world.host.memory.write(other.absolute(A), mine)
    for name in ("payments", "billing"):
        with refused("uv", 0x0186):
            world.host.import_pages(name, A, PAGE)
    world.host.memory.write(given.absolute(A), mine)
    world.host.import_pages("payments", A, PAGE)


@pytest.mark.parametrize("at", [0, 7, 8 * PAGE // 2, 8 * PAGE - 1])
def test_a_flipped_bit_is_found(world: World, given: Given, at: int) -> None:
    exported = bytearray(take(world, given, A))
    exported[at // 8] ^= 1 << at % 8
    world.host.memory.write(given.absolute(A), bytes(exported))
    before = world.picture()
    with refused("uv", 0x0186):
        world.host.import_pages("payments", A, PAGE)
    assert world.picture() == before
    exported[at // 8] ^= 1 << at % 8
    world.host.memory.write(given.absolute(A), bytes(exported))
    world.host.import_pages("payments", A, PAGE)


def test_one_bad_page_takes_none_of_the_good_ones(world: World, given: Given) -> None:
    world.host.import_pages("payments", B + PAGE, PAGE)
    world.host.export_pages("payments", A, 3 * PAGE)
    good = world.host.memory.read(given.absolute(B + PAGE), PAGE)
    world.host.memory.write(given.absolute(B + PAGE), bytes(PAGE))
    before = world.picture()
    with refused("uv", 0x0186):
        world.host.import_pages("payments", A, 3 * PAGE)
    assert world.picture() == before
    world.host.memory.write(given.absolute(B + PAGE), good)
    world.host.import_pages("payments", A, 3 * PAGE)


def test_a_page_that_never_was_is_zeros_whatever_the_host_put_there(world: World, given: Given) -> None:
    world.host.memory.write(given.absolute(0), os.urandom(2 * PAGE))
    world.host.import_pages("payments", 0, 2 * PAGE)
    assert world.read(given, 0, 2 * PAGE) == bytes(2 * PAGE)


def test_a_page_that_is_secure_elsewhere_is_not_taken_again(world: World, given: Given) -> None:
    """The host maps a fresh frame there, with an old export in it or zeros: the guest does not lose what it has."""
    old = take(world, given, A)
    world.host.import_pages("payments", A, PAGE)
    kept = given.absolute(A)
    fresh = world.kernel.frame().start
    world.kernel.remap(given, A, fresh)
    for content in (old, bytes(PAGE)):
        world.host.memory.write(fresh, content)
        before = world.picture()
        with refused("uv", 0x0184):
            world.host.import_pages("payments", A, PAGE)
        assert world.picture() == before
    world.kernel.remap(given, A, kept)
    assert world.read(given, A + 100, len(TEXT)) == TEXT


def test_a_page_is_imported_once_and_exported_once(world: World, given: Given) -> None:
    for call, code in (
        (lambda: world.host.import_pages("payments", A, PAGE), 0x0184),
        (lambda: world.host.export_pages("payments", 0, PAGE), 0x0185),
    ):
        before = world.picture()
        with refused("uv", code):
            call()
        assert world.picture() == before
    exported = take(world, given, A)
    with refused("uv", 0x0185):
        world.host.export_pages("payments", A, PAGE)
    assert world.host.memory.read(given.absolute(A), PAGE) == exported


@pytest.mark.parametrize(
    ("address", "length"),
    [(A + 1, PAGE), (A, PAGE - 1), (A, 0), (2 * MIB, PAGE), (2 * MIB - PAGE, 2 * PAGE), (1 << 51, PAGE)],
)
def test_what_are_no_pages_of_the_guest_is_neither_exported_nor_imported(
    world: World, given: Given, address: int, length: int
) -> None:
    assert given.memory == 2 * MIB
    before = world.picture()
    for call in (world.host.export_pages, world.host.import_pages):
        with refused("uv", 0x0032):
            call("payments", address, length)
    assert world.picture() == before


def test_what_is_not_mapped_or_mapped_twice_or_lowcore_is_not_imported(world: World, given: Given) -> None:
    frame = world.kernel.frame().start
    world.host.memory.unmap(given.asce, 0, PAGE)
    with refused("uv", 0x0031):
        world.host.import_pages("payments", 0, 2 * PAGE)
    world.kernel.remap(given, 0, frame)
    world.kernel.remap(given, PAGE, frame)
    with refused("uv", 0x0032):
        world.host.import_pages("payments", 0, 2 * PAGE)
    world.kernel.remap(given, 0, PAGE)
    with refused("uv", 0x0032):
        world.host.import_pages("payments", 0, PAGE)
    world.require_agreement()


def test_one_call_converts_no_more_than_the_firmware_can_hold(new_world: Callable[..., World]) -> None:
    """Sparse storage costs a host nothing: it must not cost the firmware more than a call may."""
    world = new_world(FEW, type(SMALL)(size=1 << 40, max_cpus=4, ranges=256))
    given = world.booted(memory=64 << 30)
    before = world.picture()
    for call in (world.firmware.paging.export_pages, world.firmware.paging.import_pages):
        for length in (MAX_CONVERTED + PAGE, 32 << 30):
            with pytest.raises(StorageRefused, match="at once"):
                call(given.handle, Span(1 << 30, length))
    assert world.picture() == before
    end = (1 << 30) + MAX_CONVERTED + PAGE
    world.host.import_pages("payments", 1 << 30, end - (1 << 30))  # the SDK's host does it in pieces
    world.write(given, end - PAGE, b"the last page")
    world.host.export_pages("payments", 1 << 30, end - (1 << 30))
    world.host.import_pages("payments", end - PAGE, PAGE)
    assert world.read(given, end - PAGE, 13) == b"the last page"
    world.kernel.destroy(given)


@pytest.mark.parametrize("failure", [Killed, disk_full])
def test_a_daemon_that_dies_before_the_commit_has_exported_nothing(
    world: World, given: Given, failure: Callable[[], BaseException]
) -> None:
    before = world.picture()
    world.fail(None, failure())  # the first one looks for the guest's handle
    with pytest.raises((Killed, Exception)):
        world.host.export_pages("payments", A, PAGE)
    world.again()
    assert world.picture() == before
    assert world.read(given, A + 100, len(TEXT)) == TEXT
    with refused("program", 0x3D):
        world.host.memory.read(given.absolute(A), 1)


@pytest.mark.parametrize("failure", [Killed, disk_full])
def test_a_daemon_that_dies_before_the_commit_has_imported_nothing(
    world: World, given: Given, failure: Callable[[], BaseException]
) -> None:
    exported = take(world, given, A)
    before = world.picture()
    world.fail(None, failure())
    with pytest.raises((Killed, Exception)):
        world.host.import_pages("payments", A, PAGE)
    world.again()
    assert world.picture() == before
    assert world.host.memory.read(given.absolute(A), PAGE) == exported
    world.host.import_pages("payments", A, PAGE)
    assert world.read(given, A + 100, len(TEXT)) == TEXT


def test_an_export_outlives_the_daemon_and_no_version_is_given_twice(world: World, given: Given) -> None:
    """After the commit: what the host has is what comes back, and the next export is another one."""
    seen = set()
    for _ in range(4):
        exported = take(world, given, A)
        seen.add(exported)
        world.again()
        assert world.host.memory.read(given.absolute(A), PAGE) == exported
        world.host.import_pages("payments", A, PAGE)
        world.again()
        assert world.read(given, A + 100, len(TEXT)) == TEXT
    assert len(seen) == 4


def test_a_failed_export_gives_no_version_to_the_host(world: World, given: Given) -> None:
    """The version is used again, for other bytes perhaps: nobody saw the first ones."""
    world.fail(None, disk_full())
    with pytest.raises(Exception, match="full"):
        world.host.export_pages("payments", A, PAGE)
    assert world.configuration(given).known.page_versions == 0
    with refused("program", 0x3D):
        world.host.memory.read(given.absolute(A), PAGE)


def test_a_page_that_is_out_is_the_hosts_when_its_guest_is_gone(world: World, given: Given) -> None:
    """Destroying scrubs what is secure, and does not touch what the host has: it may have other things there by now."""
    take(world, given, A)
    at = given.absolute(A)
    world.host.memory.write(at, b"the host's own")
    world.host.destroy_cpu(given.cpus[0][0])
    world.host.destroy_guest(given.handle)
    assert world.host.memory.read(at, 14) == b"the host's own"
    other = Span(given.absolute(B), PAGE)
    assert world.host.memory.read(other.start, PAGE) == bytes(PAGE)


def test_a_guest_that_does_not_run_yet_is_paged_too(world: World) -> None:
    given = world.kernel.create()
    world.kernel.load(given, world.image())
    with pytest.raises(Refused):
        world.host.export_pages("payments", A, PAGE)
    world.host.verify(given.handle)
    take(world, given, A)
    world.host.import_pages("payments", A, PAGE)
    world.kernel.cpu(given)
    world.host.run(given.handle)
    assert world.read(given, A).startswith(b"kernel of payments")
