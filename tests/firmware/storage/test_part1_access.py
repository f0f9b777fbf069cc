"""Who may touch which page: T7, T8 and T9 of the must-test list."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from keyvisor_firmware.errors import AccessRefused, StorageRefused
from keyvisor_firmware.storage.pages import PAGE, Span
from keyvisor_firmware.storage.return_codes import StorageCode

from .world import Given, World, refused

KERNEL = 0x17000  # where the image's first page is, in the guest


def secure_spans(world: World, given: Given) -> Mapping[str, Span]:
    """One piece of every kind of secure storage."""
    zone = world.holdings.zone
    assert zone is not None
    return {
        "zone base": zone,
        "guest base": given.base,
        "variable area": given.variable[1],
        "cpu": given.cpus[0][1],
        "guest memory": Span(given.absolute(KERNEL), PAGE),
    }


KINDS = ("zone base", "guest base", "variable area", "cpu", "guest memory")


@pytest.mark.parametrize("kind", KINDS)
def test_part1_T7_the_host_reads_and_writes_no_secure_page(world: World, kind: str) -> None:
    """All of it, one byte of it, and what only overlaps it at one end: refused, with nothing read and nothing written."""
    given = world.booted()
    span = secure_spans(world, given)[kind]
    before = world.picture()
    for start, length in (
        (span.start, span.length),
        (span.start, 1),
        (span.end - 1, 1),
        (span.start + 100, 8),
        (span.start - 1, 2),
        (span.end - 1, 2),
        (span.start - PAGE, PAGE + 1),
        (span.end - 1, PAGE),
        (span.start - 1, span.length + 2),
    ):
        if start + length > world.storage_limits.size:
            continue
        with refused("program", 0x3D):
            world.host.memory.read(start, length)
        with refused("program", 0x3D):
            world.host.memory.write(start, b"\xee" * length)
        assert world.picture() == before
    world.again()
    with refused("program", 0x3D):
        world.host.memory.read(span.start, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_part1_T7_the_pages_beside_are_the_hosts_still(world: World, kind: str) -> None:
    """The refusal is not wider than the page."""
    given = world.booted()
    span = secure_spans(world, given)[kind]
    for start in (span.start - PAGE, span.end):
        free = world.holdings.host.zone.is_free(start, start + PAGE)
        if free and start + PAGE <= world.storage_limits.size:
            world.host.memory.write(start, b"b" * PAGE)
            assert world.host.memory.read(start, PAGE) == b"b" * PAGE


def test_part1_T7_every_refused_access_is_recorded_with_its_address(world: World) -> None:
    given = world.booted()
    for span in secure_spans(world, given).values():
        for event, access in (
            ("host read", lambda span=span: world.host.memory.read(span.start + 8, 16)),
            ("host write", lambda span=span: world.host.memory.write(span.start + 8, b"w" * 16)),
        ):
            before = len(world.events())
            with refused("program", 0x3D) as info:
                access()
            assert f"{span.start + 8:#x}" in str(info.value)
            new = world.events()[before:]
            assert [(one.event, one.detail["outcome"]) for one in new] == [(event, "refused")]
            assert f"{span.start + 8:#x}" in new[0].detail["reason"]
            assert "3d" in new[0].detail["reason"]


def test_part1_T7_what_is_read_in_pieces_is_refused_at_the_secure_one(world: World) -> None:
    """More than one access takes: a piece before is the host's own to read; and outside of storage is 05, not 3d."""
    size = world.storage_limits.size
    with refused("program", 0x05):
        world.host.memory.read(size, 1)
    with refused("program", 0x05):
        world.host.memory.read(size - 1, 2)
    with refused("program", 0x05):
        world.host.memory.write(size - 1, b"xx")
    assert world.host.memory.read(size, 0) == b""


def test_part1_T7_a_guest_does_not_touch_its_donations(world: World) -> None:
    """The host maps them into the guest's storage: the guest meets an interruption, and not the firmware's data."""
    given = world.booted()
    for kind, span in secure_spans(world, given).items():
        if kind == "guest memory":
            continue
        world.kernel.remap(given, 0, span.start)
        for access in (lambda: world.read(given, 0, 8), lambda: world.write(given, 0, b"w" * 8)):
            before = world.picture()
            with pytest.raises(AccessRefused) as info:
                access()
            assert (info.value.code, info.value.address) == (0x3F, 0)
            assert world.picture() == before


def two(world: World) -> tuple[Given, Given]:
    """The guests `payments` and `billing`."""
    return world.booted("payments"), world.booted("billing")


def test_part1_T8_a_page_of_another_guest_is_not_reached_by_mapping_it(world: World) -> None:
    """Over a page of its own, over one that it never had, and at the very address where the other one has it."""
    payments, billing = two(world)
    theirs = billing.absolute(KERNEL)
    for address in (KERNEL, 0, KERNEL + PAGE):
        before_map = payments.absolute(address)
        world.kernel.remap(payments, address, theirs)
        before = world.picture()
        with pytest.raises(AccessRefused) as info:
            world.read(payments, address, 16)
        assert info.value.code == 0x3F
        with pytest.raises(AccessRefused) as info:
            world.write(payments, address + 4000, b"w" * 200)
        assert info.value.code == 0x3F
        assert world.picture() == before
        world.kernel.remap(payments, address, before_map)
    assert world.read(billing, KERNEL).startswith(b"kernel of billing")
    assert world.read(payments, KERNEL).startswith(b"kernel of payments")


def test_part1_T8_a_page_of_another_guest_is_not_taken_by_import_or_unpack(world: World) -> None:
    payments, billing = two(world)
    third = world.kernel.create("third")
    image = world.image("third")
    world.kernel.back(third)
    world.kernel.header(third, image)
    place = image.components[0].placement
    for span in secure_spans(world, billing).values():
        world.kernel.remap(payments, 0, span.start)
        world.kernel.remap(third, place.address, span.start)
        before = world.picture()
        with refused("uv", 0x0184):
            world.host.import_pages("payments", 0, PAGE)
        with refused("uv", 0x0184):
            world.host.unpack(third.handle, place.address, PAGE, tweak=place.tweak_prefix, offset=0)
        assert world.picture() == before


def test_part1_T8_a_page_of_another_guest_is_not_exported(world: World) -> None:
    """Mapped where this guest has a page of its own: the host gets neither."""
    payments, billing = two(world)
    world.kernel.remap(payments, KERNEL, billing.absolute(KERNEL))
    before = world.picture()
    with refused("uv", 0x0185):
        world.host.export_pages("payments", KERNEL, PAGE)
    assert world.picture() == before


def test_part1_T8_an_unmapped_and_a_non_secure_page_are_for_the_host_to_import(world: World) -> None:
    given = world.booted()
    world.host.memory.unmap(given.asce, PAGE, PAGE)
    for address in (0, PAGE):
        for access in (
            lambda a=address: world.read(given, a, 1),
            lambda a=address: world.write(given, a, b"w"),
        ):
            with pytest.raises(AccessRefused) as info:
                access()
            assert (info.value.code, info.value.address) == (0x3E, address)
    world.host.import_pages("payments", 0, PAGE)
    world.write(given, 0, b"now it is there")
    assert world.read(given, 0, 15) == b"now it is there"


def test_part1_T8_an_access_over_two_pages_is_all_or_nothing(world: World) -> None:
    """The first page is the guest's own, the second is not there, or is another guest's."""
    payments, billing = two(world)
    end = KERNEL + 2 * PAGE
    before = world.picture()
    with pytest.raises(AccessRefused) as info:
        world.write(payments, end - 8, b"w" * 16)
    assert (info.value.code, info.value.address) == (0x3E, end)
    assert world.picture() == before
    world.kernel.remap(payments, end, billing.absolute(KERNEL))
    before = world.picture()
    with pytest.raises(AccessRefused) as info:
        world.write(payments, end - 8, b"w" * 16)
    assert (info.value.code, info.value.address) == (0x3F, end)
    with pytest.raises(AccessRefused):
        world.read(payments, end - 8, 16)
    assert world.picture() == before


def test_part1_T8_a_guest_ends_where_its_storage_ends(world: World) -> None:
    """Behind it lies its variable area, in its own address space."""
    given = world.booted()
    for start, length in (
        (given.memory, 1),
        (given.memory - 1, 2),
        (given.virtual, PAGE),
        (1 << 50, 1),
    ):
        with pytest.raises(AccessRefused) as info:
            world.read(given, start, length)
        assert info.value.code == 0x05
    with refused("uv", 0x0032):
        world.host.export_pages("payments", given.virtual, PAGE)
    with refused("uv", 0x0032):
        world.host.import_pages("payments", given.memory - PAGE, 2 * PAGE)


def test_part1_T9_a_page_of_its_own_under_another_address_is_refused(world: World) -> None:
    """Two pages are exchanged, or one is mapped twice: an interruption, until they are mapped back."""
    given = world.booted()
    first, second = given.absolute(KERNEL), given.absolute(KERNEL + PAGE)
    world.kernel.remap(given, KERNEL, second)
    world.kernel.remap(given, KERNEL + PAGE, first)
    world.kernel.remap(given, 0, first)
    for address in (KERNEL, KERNEL + PAGE, 0):
        with pytest.raises(AccessRefused) as info:
            world.read(given, address)
        assert (info.value.code, info.value.address) == (0x3F, address)
    with refused("uv", 0x0185):
        world.host.export_pages("payments", KERNEL, PAGE)
    world.kernel.map(given.asce, 0, given.pages)
    assert world.read(given, KERNEL).startswith(b"kernel of payments")


def changes(world: World, given: Given) -> Mapping[str, Callable[[], object]]:
    """What a host can do to the mapping of a variable area, its first or its last page."""
    last = given.virtual + sum(span.length for span in given.variable) - PAGE
    frame = world.kernel.frame()
    other = world.booted("billing")
    return {
        "unmapped": lambda: world.host.memory.unmap(given.asce, last, PAGE),
        "a page of the host's": lambda: world.kernel.remap(given, given.virtual, frame.start),
        "another page of it": lambda: world.kernel.remap(given, last, given.variable[0].start),
        "its base": lambda: world.kernel.remap(given, given.virtual, given.base.start),
        "another guest's variable area": lambda: world.kernel.remap(
            given, given.virtual, other.variable[0].start
        ),
        "none of it is mapped": lambda: world.host.memory.unmap(given.asce, 0, 1 << 40),
    }


CHANGES = (
    "unmapped",
    "a page of the host's",
    "another page of it",
    "its base",
    "another guest's variable area",
    "none of it is mapped",
)


@pytest.mark.parametrize("change", CHANGES)
def test_part1_T9_a_variable_area_that_was_remapped_is_not_used(world: World, change: str) -> None:
    """Adding a secret, locking, export, import, destroying: refused, with no effect, and fine when it is mapped back."""
    given = world.booted()
    instance = world.instance(given)
    made = changes(world, given)
    assert set(made) == set(CHANGES)
    world.add_secret(given, "before")
    world.host.destroy_cpu(given.cpus.pop(0)[0])
    made[change]()
    before = world.picture()
    for call in (
        lambda: world.add_secret(given, "meanwhile"),
        lambda: world.firmware.lock_secrets(instance),
    ):
        with pytest.raises(StorageRefused) as info:
            call()
        assert info.value.why is StorageCode.MAPPING_CHANGED
        assert world.picture() == before
    for host_call in (
        lambda: world.host.export_pages("payments", KERNEL, PAGE),
        lambda: world.host.import_pages("payments", 0, PAGE),
        lambda: world.host.destroy_guest(given.handle),
    ):
        with refused("uv", 0x0182):
            host_call()
        assert world.picture() == before
    assert world.secrets(given) == 1
    world.again()
    assert world.secrets(given) == 1  # a guest is not harmed by what its host maps
    with refused("uv", 0x0182):
        world.host.destroy_guest(given.handle)
    world.kernel.map(given.asce, 0, [*given.pages, *given.variable])
    world.add_secret(given, "after")
    world.firmware.lock_secrets(instance)
    world.host.export_pages("payments", KERNEL, PAGE)
    world.host.import_pages("payments", KERNEL, PAGE)
    world.host.import_pages("payments", 0, PAGE)
    assert world.secrets(given) == 2
    world.kernel.destroy(given)
    assert world.holdings.host.zone.of_domain(given.handle) == ()


def test_part1_T9_a_mapping_that_changes_while_a_guest_boots(world: World) -> None:
    """What is verified is what was unpacked, and nothing else that the host maps there."""
    given = world.kernel.create()
    world.kernel.cpu(given)
    image = world.image()
    world.kernel.load(given, image)
    kernel = image.components[0].placement.address
    copy = world.kernel.frame()
    world.host.memory.write(copy.start, image.components[0].pages)
    for absolute, code in (
        (copy.start, 0x3E),
        (given.absolute(kernel + PAGE), 0x3F),
        (given.base.start, 0x3F),
    ):
        world.kernel.remap(given, kernel, absolute)
        before = world.picture()
        with refused("program", code):
            world.host.verify(given.handle)
        assert world.picture() == before
    world.kernel.map(given.asce, 0, given.pages)
    world.host.verify(given.handle)
    world.host.run(given.handle)
    assert world.read(given, KERNEL).startswith(b"kernel of payments")


def test_part1_T9_the_address_space_of_a_guest_that_is_there_is_not_forgotten(world: World) -> None:
    """A host gives back everything under its label: what is secure stays reserved, and mapped, and the space's own page."""
    given = world.booted()
    freed = world.host.memory.free("guest payments")
    secure = sum(one.length for one in world.holdings.host.zone.of_domain(given.handle))
    assert freed.kept == secure + PAGE
    assert not world.host.memory.free("guest payments").freed
    for _ in range(3):
        assert world.kernel.frame().start != given.asce
    world.add_secret(given, "still")
    assert world.read(given, KERNEL).startswith(b"kernel of payments")
    world.require_agreement()
