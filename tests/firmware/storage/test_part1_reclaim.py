"""How storage comes back, and how it does not: T10 to T13 of the must-test list."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

import pytest
from sqlalchemy.exc import SQLAlchemyError

from keyvisor_firmware.storage.pages import MIB, PAGE, Span
from keyvisor_guest.errors import Refused
from keyvisor_guest.wire.messages import Message
from keyvisor_guest.wire.secret_kinds import SecretKind
from keyvisor_hsm.errors import HsmError

from ...in_process_host import InProcessDoor
from .world import Killed, Offer, World, disk_full, refused

KERNEL = 0x17000
VALUE = bytes(range(100, 132))

M = TypeVar("M", bound=Message)


class AnsweringDoor(InProcessDoor):
    """A door that answers too where the firmware has met something unforeseen: 500, as the real one does."""

    def call(self, name: str, answer: type[M], body: Message | None = None, /, **parameters: str) -> M:
        try:
            return super().call(name, answer, body, **parameters)
        except (SQLAlchemyError, HsmError):
            raise Refused("http", 500, "internal error; the daemon's log has the reason") from None


def answering(world: World) -> None:
    """The host's door is such a one."""
    world.host._door = AnsweringDoor(world.firmware)  # type: ignore[assignment]


def pieces_of(ground: Iterable[dict[int, bytes]]) -> set[bytes]:
    """What stands out in pages: every 64 bytes that are not mostly the same."""
    return {
        page[at : at + 64]
        for pages in ground
        for page in pages.values()
        for at in range(0, PAGE, 512)
        if len(set(page[at : at + 64])) > 16
    }


def free_again(world: World) -> bool:
    """Whether only the zone's base storage is in use."""
    ledger = world.host.storage()
    zone = world.host.query_storage().zone_base
    return ledger.secure == zone and ledger.free in (ledger.size - zone, ledger.size - zone - PAGE)


# --- T10


def test_part1_T10_what_comes_back_is_zeros(world: World) -> None:
    """A CPU's storage when the CPU is destroyed, all other when the guest is; each page read by the host."""
    given = world.booted(cpus=(0, 1))
    world.add_secret(given, "signing")
    world.write(given, KERNEL, b"of the guest" * 100)
    handle, cpu = given.cpus.pop(1)
    world.host.destroy_cpu(handle)
    assert world.host.memory.read(cpu.start, cpu.length) == bytes(cpu.length)
    with refused("program", 0x3D):
        world.host.memory.read(given.cpus[0][1].start, 1)
    handle, cpu = given.cpus.pop(0)
    world.host.destroy_cpu(handle)
    with refused("program", 0x3D):
        world.host.memory.read(given.base.start, 1)
    world.host.destroy_guest(given.handle)
    for span in (given.base, *given.variable, cpu, Span(given.absolute(KERNEL), 2 * PAGE)):
        assert world.host.memory.read(span.start, span.length) == bytes(span.length)
    world.require_agreement()


def test_part1_T10_nothing_of_a_guest_stays_on_the_disk(world: World) -> None:
    """Every sealed and encrypted byte of it was in the database's file, and none is after the destroy."""
    given = world.booted(cpus=(0, 1))
    world.add_secret(given, "signing", VALUE)
    world.add_secret(given, "text", VALUE * 8, SecretKind.PLAINTEXT)
    world.write(given, KERNEL, b"of the guest" * 300)
    pieces = pieces_of(world.ground(given.spans))
    before = world.disk()
    assert len(pieces) > 16
    assert all(piece in before for piece in pieces)
    world.kernel.destroy(given)
    after = world.disk()
    assert [piece for piece in pieces if piece in after] == []


def test_part1_T10_nothing_secret_was_on_the_disk_in_clear(world: World) -> None:
    given = world.booted()
    clear = os.urandom(64)
    world.add_secret(given, "signing", VALUE)
    world.write(given, KERNEL + 8, clear)
    record = world.configuration(given).known
    disk = world.disk()
    for secret in (b"kernel of payments", VALUE, clear, record.memory_key, record.page_key, record.cck):
        assert secret is not None
        assert secret not in disk


def test_part1_T10_what_the_host_left_in_a_donation_is_gone_at_once(world: World) -> None:
    """Scrubbed when it becomes secure too: no guest's area begins with the host's bytes."""
    offer = world.kernel.prepare()
    left = os.urandom(PAGE)
    for span in (offer.base, *offer.variable):
        world.host.memory.write(span.end - PAGE, left)
    given = world.kernel.donate(offer)
    assert left[:64] not in world.disk()
    span = world.kernel.frame()
    world.host.memory.write(span.start, left)
    world.host.create_cpu(given.handle, 0, storage=span.start, storage_length=PAGE)
    assert left[2000:2064] not in world.disk()


def test_part1_T10_a_half_booted_guest_is_scrubbed_as_well(world: World) -> None:
    given = world.kernel.create()
    world.kernel.load(given, world.image(kernel=os.urandom(5 * PAGE)))
    pages = Span(given.absolute(KERNEL), PAGE)
    pieces = pieces_of(world.ground([pages, given.base]))
    assert pieces
    world.host.destroy_guest(given.handle)
    assert world.host.memory.read(pages.start, PAGE) == bytes(PAGE)
    disk = world.disk()
    assert not [piece for piece in pieces if piece in disk]


# --- T11


def test_part1_T11_storage_of_a_guest_becomes_another_guests(world: World) -> None:
    """What was variable area is base, CPU and memory now: nothing is left of the old owner, in any table."""
    old = world.booted("payments")
    world.add_secret(old, "signing")
    world.kernel.destroy(old)
    new = world.booted("billing")
    assert set(new.spans) & set(old.spans)
    assert world.secrets(new) == 0
    assert world.read(new, KERNEL).startswith(b"kernel of billing")
    assert world.holdings.host.zone.of_domain(old.handle) == ()
    world.add_secret(new, "signing")
    world.again()
    assert world.secrets(new) == 1
    world.require_agreement()


def test_part1_T11_the_same_pages_in_other_parts(world: World) -> None:
    """One after the other, every kind of donation stands where every other one was."""
    first = world.booted("payments")
    spots = [first.base.start, first.variable[0].start, first.cpus[0][1].start, first.absolute(KERNEL)]
    world.kernel.destroy(first)
    for number, spot in enumerate(spots):
        name = f"guest-{number}"
        given = world.kernel.create(name, MIB)
        if world.holdings.host.zone.is_free(spot, spot + PAGE):
            handle = world.host.create_cpu(given.handle, 0, storage=spot, storage_length=PAGE)
            with refused("program", 0x3D):
                world.host.memory.read(spot, 1)
            world.host.destroy_cpu(handle)
        world.require_agreement()
        world.kernel.destroy(given)
    assert free_again(world)


def test_part1_T11_fifty_lives_leave_nothing(world: World) -> None:
    """Start and stop again and again: neither storage nor slots nor rows become fewer or more."""
    world.kernel.destroy(world.booted())
    before, slots, size = world.picture(), len(world.holdings.slots), len(world.disk())
    for _ in range(50):
        given = world.booted()
        world.kernel.destroy(given)
    assert world.picture() == before
    assert len(world.holdings.slots) == slots
    assert len(world.disk()) < size + 50 * PAGE * 4


def test_part1_T11_a_new_guest_of_the_same_name_is_another_guest(world: World) -> None:
    """What the old one exported is nothing to it: the host gives it back, and the guest finds zeros."""
    old = world.booted()
    world.write(old, KERNEL, b"of the old one")
    world.host.export_pages("payments", KERNEL, PAGE)
    exported = world.host.memory.read(old.absolute(KERNEL), PAGE)
    world.kernel.destroy(old)
    new = world.booted()
    assert new.handle != old.handle
    world.host.memory.write(new.absolute(0), exported)
    world.host.import_pages("payments", 0, PAGE)
    assert world.read(new, 0) == bytes(PAGE)
    world.host.export_pages("payments", KERNEL, PAGE)
    world.host.memory.write(new.absolute(KERNEL), exported)
    with refused("uv", 0x0186):
        world.host.import_pages("payments", KERNEL, PAGE)


# --- T12


@pytest.mark.parametrize("restart", [False, True])
def test_part1_T12_a_destroy_whose_commit_fails_releases_nothing(world: World, restart: bool) -> None:
    given = world.booted()
    world.add_secret(given, "signing")
    world.host.destroy_cpu(given.cpus.pop(0)[0])
    before, granted = world.picture(), dict(world.gates.grants)
    world.fail(disk_full())
    with pytest.raises(SQLAlchemyError):
        world.host.destroy_guest(given.handle)
    assert world.picture() == before
    if restart:
        world.again()
        assert world.picture() == before
    for span in (given.base, *given.variable, Span(given.absolute(KERNEL), PAGE)):
        with refused("program", 0x3D):
            world.host.memory.read(span.start, 1)
        with refused("program", 0x3D):
            world.host.memory.write(span.end - 1, b"x")
    assert world.gates.grants == granted
    assert world.secrets(given) == 1
    assert world.read(given, KERNEL).startswith(b"kernel of payments")
    world.kernel.destroy(given)
    assert free_again(world)


def test_part1_T12_a_daemon_that_dies_before_the_commit_has_released_nothing(world: World) -> None:
    given = world.booted()
    world.host.destroy_cpu(given.cpus.pop(0)[0])
    before = world.picture()
    world.fail(Killed())
    with pytest.raises(Killed):
        world.host.destroy_guest(given.handle)
    world.again()
    assert world.picture() == before
    world.kernel.destroy(given)
    assert free_again(world)


def test_part1_T12_a_cpu_whose_destroy_fails_is_there_still(world: World) -> None:
    given = world.booted()
    handle, cpu = given.cpus[0]
    before = world.picture()
    world.fail(disk_full())
    with pytest.raises(SQLAlchemyError):
        world.host.destroy_cpu(handle)
    assert world.picture() == before
    world.sealer.broken = True
    with pytest.raises(HsmError):
        world.host.destroy_cpu(handle)
    world.sealer.broken = False
    assert world.picture() == before
    with refused("program", 0x3D):
        world.host.memory.read(cpu.start, 1)
    with refused("uv", 0x0190):
        world.host.destroy_guest(given.handle)
    world.kernel.destroy(given)


@pytest.mark.parametrize("commits", [1, 10])
def test_part1_T12_a_guest_whose_gate_does_not_come_back_can_be_destroyed(world: World, commits: int) -> None:
    """What undoes the failed destroy fails too: the guest has no gate any more, and the next destroy does without."""
    given = world.booted()
    world.host.destroy_cpu(given.cpus.pop(0)[0])
    before = world.picture()
    world.fail(*[disk_full() for _ in range(commits)])
    world.gates.fail(1, "mishap before")
    with pytest.raises(SQLAlchemyError):
        world.host.destroy_guest(given.handle)
    assert world.gates.failed
    world.fail()
    assert world.picture() == before
    world.kernel.destroy(given)
    assert free_again(world)
    world.require_agreement()
    assert given.name not in world.gates.grants


def test_part1_T12_the_hosts_stop_leaks_the_storage_and_says_so(world: World) -> None:
    """The SDK's host: nothing is given back until the firmware has let go of it, and then all of it is."""
    answering(world)
    world.host.start("payments", world.image_file(), memory=2 * MIB)
    held = [line for line in world.host.storage().held if line.holder != "firmware"]
    world.fail(None, None, disk_full())  # it looks, and destroys the CPU, but not the guest
    with pytest.raises(Refused) as info:
        world.host.stop("payments")
    assert "nothing that was given to guest `payments` was taken back" in str(info.value)
    left = [line for line in world.host.storage().held if line.holder != "firmware"]
    assert [line for line in left if line.secure] == [
        line for line in held if line.secure and line.use != "cpu"
    ]
    assert sum(line.length for line in left) == sum(line.length for line in held)
    world.require_agreement()
    world.host.stop("payments")
    assert free_again(world)


def test_part1_T12_a_destroy_that_was_refused_for_the_mapping_leaks_too(world: World) -> None:
    world.host.start("payments", world.image_file(), memory=2 * MIB)
    (guest,) = world.host.guests()
    spaces = world.holdings.host.spaces
    mapped = [one for one in spaces.intervals(guest.asce) if one.start >= 2 * MIB]
    assert mapped
    world.host.memory.unmap(guest.asce, 2 * MIB, PAGE)
    before = world.host.storage()
    with refused_with_note(0x0182):
        world.host.stop("payments")
    after = world.host.storage()
    assert after.free == before.free
    world.host.memory.map(guest.asce, 2 * MIB, mapped[0].value.absolute, PAGE)
    world.host.stop("payments")
    assert free_again(world)


class refused_with_note:
    """As `refused`, with the line that says that storage stays."""

    def __init__(self, code: int) -> None:
        self._code = code

    def __enter__(self) -> None:
        self._raises = pytest.raises(Refused)
        self._info = self._raises.__enter__()

    def __exit__(self, *error: object) -> bool:
        done = bool(self._raises.__exit__(*error))  # type: ignore[arg-type]
        assert self._info.value.code == self._code
        assert "was taken back" in str(self._info.value)
        return done


# --- T13


def sca_in_the_base(world: World, offer: Offer) -> dict[str, int]:
    return {"sca": offer.base.start}


def asce_in_use(world: World, offer: Offer) -> dict[str, int]:
    other = world.kernel.create("billing", MIB)
    world.kernel.map(other.asce, offer.memory, offer.variable)
    return {"asce": other.asce}


HALVES: dict[str, tuple[int, Callable[[World, Offer], dict[str, int]]]] = {
    "no sca": (0x810C, lambda *_: {"sca": 0}),
    "an sca beside a page": (0x810D, lambda _, offer: {"sca": offer.sca + 8}),
    "an sca in the lowcore": (0x810D, lambda *_: {"sca": PAGE}),
    "an sca outside": (0x810D, lambda world, _: {"sca": world.storage_limits.size}),
    "an sca in what is donated with it": (0x810D, sca_in_the_base),
    "an sca in the firmware's": (0x810D, lambda *_: {"sca": 2 << 30}),
    "an address space that is in use": (0x8104, asce_in_use),
}


def require_unfinished(world: World, offer: Offer, handle: int) -> None:
    """All that is left is to destroy it; until then the storage is not the host's."""
    world.require_agreement()
    guest = next(one for one in world.host.guests() if one.handle == handle)
    assert (guest.name, guest.state, guest.cpus, guest.started) == (offer.name, "unfinished", [], "")
    before = world.picture()
    for span in (offer.base, *offer.variable):
        with refused("program", 0x3D):
            world.host.memory.read(span.start, 1)
        with refused("program", 0x3D):
            world.host.memory.write(span.end - 1, b"x")
    frame = offer.sca
    for call in (
        lambda: world.host.create_cpu(handle, 0, storage=frame, storage_length=PAGE),
        lambda: world.host.set_parameters(handle, frame, 640),
        lambda: world.host.unpack(handle, 0, PAGE, tweak=bytes(8), offset=0),
        lambda: world.host.verify(handle),
        lambda: world.host.run(handle),
        lambda: world.host.export_pages(offer.name, 0, PAGE),
        lambda: world.host.import_pages(offer.name, 0, PAGE),
    ):
        with refused("uv", 0x0180):
            call()
    assert world.picture() == before


def require_it_goes(world: World, offer: Offer, handle: int) -> None:
    """Destroyed, it leaves zeros, its name, and a place for the next."""
    world.host.destroy_guest(handle)
    for span in (offer.base, *offer.variable):
        assert world.host.memory.read(span.start, span.length) == bytes(span.length)
    assert handle not in {guest.handle for guest in world.host.guests()}
    given = world.kernel.donate(offer)
    assert given.handle != handle
    world.kernel.destroy(given)
    world.require_agreement()


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("half", HALVES)
def test_part1_T13_a_creation_that_ends_half_way_has_to_be_destroyed(
    world: World, half: str, restart: bool
) -> None:
    code, other = HALVES[half]
    offer = world.kernel.prepare()
    with refused("uv", code) as info:
        world.kernel.donate(offer, **other(world, offer))
    handle = info.value.handle
    assert handle is not None
    assert f"{handle:#x}" in str(info.value)
    if restart:
        world.again()
    require_unfinished(world, offer, handle)
    require_it_goes(world, offer, handle)


@pytest.mark.parametrize("broken", ["sealer", "commit"])
def test_part1_T13_a_firmware_that_cannot_write_says_that_it_must_be_destroyed(
    world: World, broken: str
) -> None:
    offer = world.kernel.prepare()
    world.sealer.broken = broken == "sealer"
    if broken == "commit":
        world.fail(None, disk_full())
    with refused("uv", 0x8183) as info:
        world.kernel.donate(offer)
    world.sealer.broken = False
    handle = info.value.handle
    assert handle is not None
    require_unfinished(world, offer, handle)
    require_it_goes(world, offer, handle)


def test_part1_T13_a_daemon_that_dies_between_the_two_halves(world: World) -> None:
    """No answer came, and no handle: the host finds it in the list of guests after the restart."""
    offer = world.kernel.prepare()
    world.fail(None, Killed())
    with pytest.raises(Killed):
        world.kernel.donate(offer)
    world.again()
    (guest,) = world.host.guests()
    require_unfinished(world, offer, guest.handle)
    world.again()
    require_unfinished(world, offer, guest.handle)
    require_it_goes(world, offer, guest.handle)


def test_part1_T13_without_8000h_there_is_nothing_to_destroy(world: World) -> None:
    """The first half fails, or dies: the host may use its storage at once."""
    offer = world.kernel.prepare()
    before = world.picture()
    with refused("uv", 0x0108) as info:
        world.kernel.donate(offer, base_length=PAGE)
    assert info.value.handle is None
    world.fail(Killed())
    with pytest.raises(Killed):
        world.kernel.donate(offer)
    world.again()
    assert world.picture() == before
    assert world.host.guests() == []
    for span in (offer.base, *offer.variable):
        world.host.memory.write(span.start, b"mine")


def test_part1_T13_the_hosts_start_destroys_what_was_created_half(world: World) -> None:
    """The SDK's host gets the code, and everything is free again."""
    world.kernel.init()
    world.sealer.broken = True
    with pytest.raises(Refused) as info:
        world.host.start("payments", world.image_file(), memory=2 * MIB)
    world.sealer.broken = False
    assert info.value.code == 0x8183
    assert world.host.guests() == []
    assert free_again(world)
    world.host.start("payments", world.image_file(), memory=2 * MIB)


def test_part1_T13_the_hosts_stop_finds_what_a_dead_host_left_half_made(world: World) -> None:
    offer = world.kernel.prepare()
    world.fail(None, Killed())
    with pytest.raises(Killed):
        world.kernel.donate(offer)
    world.again()
    world.host.stop("payments")
    assert world.host.guests() == []
    world.host.memory.free("test")
    assert world.host.storage().secure == world.host.query_storage().zone_base
    world.kernel.create()
