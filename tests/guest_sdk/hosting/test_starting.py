"""Starting a guest: what it needs is donated, a failure at any call gives all of it back, and races hurt nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from keyvisor_guest import Host, Refused, SdkError
from keyvisor_guest.errors import DoorBroken, GuestThere
from keyvisor_guest.hosting.image_loading import load
from keyvisor_guest.hosting.starting import Progress
from keyvisor_guest.wire.storage_messages import Held, Ledger

from ..storage_story import PAGE
from .refusing import CODE, Refusing, between, dying, refusing

MIB = 1 << 20


def calls_of_a_start(firmware: Any, host: Host, image: bytes) -> list[str]:
    """The routes that a start of `new` with two CPUs calls; the story is afterwards as before."""
    initialised = firmware.story.storage.initialised
    firmware.story.asked.clear()
    host.start("new", image, cpus=2)
    calls = list(firmware.story.asked)
    host.stop("new")
    if not initialised:
        firmware.story.storage.release(0)
        firmware.story.storage.free(next(label for label, _, _ in firmware.story.storage.frames))
        firmware.story.storage.initialised = False
    assert firmware.story.storage.frames == []
    return calls


def shape(ledger: Ledger) -> list[tuple[str, str, int]]:
    """Who holds how much for what, without the tokens of labels."""
    return sorted((" ".join(line.holder.split()[:2]), line.use, line.length) for line in ledger.held)


def uses(host: Host, holder: str) -> dict[str, Held]:
    return {line.use: line for line in host.storage().held if line.holder == holder}


def test_what_is_donated_is_what_the_query_says(firmware: Any, host: Host, image: bytes) -> None:
    guest = host.start("new", image, memory=64 * MIB, cpus=3)
    assert (guest.state, guest.cpus, guest.storage_length) == ("running", [0, 1, 2], 64 * MIB)
    query, held = host.query_storage(), uses(host, "new")
    assert held["guest base"].length == query.guest_base
    assert held["guest variable"].length == query.guest_virtual(64 * MIB)
    assert held["cpu"].length == 3 * query.cpu
    assert held["guest memory"].length == sum(len(each.pages) for each in load(image).components)
    firmware.story.storage.secure.clear()
    reserved = sum(line.length for line in host.storage().held)
    assert reserved == sum(held[use].length for use in ("guest base", "guest variable", "cpu")) + (
        64 * MIB + 2 * PAGE  # the address space and the SCA; the header's page is free again
    )


def test_the_image_stands_where_the_guest_has_it(firmware: Any, host: Host, image: bytes) -> None:
    guest = host.start("new", image)
    loaded, story = load(image), firmware.story
    assert story.headers[guest.handle] == loaded.header
    for component in loaded.components:
        place = component.placement
        ranges = story.storage.translate(guest.asce, place.address, place.size)
        assert b"".join(story.storage.read(at, end - at) for at, end in ranges) == component.pages
        mine = [each for each in story.unpacked[guest.handle] if each.tweak == place.tweak_prefix.hex()]
        assert [each.offset for each in mine] == list(range(0, place.size, MIB))
        assert [each.address - place.address for each in mine] == [each.offset for each in mine]
        assert sum(each.length for each in mine) == place.size


def test_nothing_of_a_guest_lies_in_the_lowcore(firmware: Any, host: Host, image: bytes) -> None:
    host.start("new", image)
    assert min(line.first for line in host.storage().held) >= 0x2000


@pytest.mark.parametrize("memory", [0, MIB - 1, MIB + PAGE, -MIB, 1 << 41])
def test_sizes_that_cannot_be(firmware: Any, host: Host, image: bytes, memory: int) -> None:
    with pytest.raises(SdkError, match="iB"):
        host.start("new", image, memory=memory)
    assert host.storage().held == []


@pytest.mark.parametrize("cpus", [0, -1, 17])
def test_numbers_of_cpus_that_cannot_be(firmware: Any, host: Host, image: bytes, cpus: int) -> None:
    with pytest.raises(SdkError, match="give 1 to 16"):
        host.start("new", image, cpus=cpus)


def test_an_image_that_does_not_fit(firmware: Any, host: Host, image: bytes) -> None:
    least = -(-load(image).end // MIB)
    with pytest.raises(SdkError, match=f"give its guest {least} MiB or more"):
        host.start("new", image, memory=MIB)
    assert host.start("new", image, memory=least * MIB).storage_length == least * MIB


def test_the_default_is_as_long_as_the_image_needs(
    firmware: Any, host: Host, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host.start("new", image).storage_length == 256 * MIB
    monkeypatch.setattr("keyvisor_guest.hosting.starting.DEFAULT_MEMORY", MIB)
    assert host.start("newer", image).storage_length == -(-load(image).end // MIB) * MIB


def test_progress_grows_and_ends_at_the_total(firmware: Any, host: Host, image: bytes) -> None:
    seen: list[Progress] = []
    host.start("new", image, progress=seen.append)
    done = [each.done for each in seen]
    assert done == sorted(done)
    assert done[0] == 0
    assert len({each.total for each in seen}) == 1
    assert seen[-1].done == seen[-1].total
    assert all(each.done < each.total for each in seen[:-1])
    stages = list(dict.fromkeys(each.stage for each in seen))
    assert stages == ["donating", "loading", "unpacking", "verifying", "running"]
    assert len(seen) > 7  # the kernel alone is loaded and unpacked in two steps each


def test_scattered_storage_will_do(firmware: Any, host: Host, image: bytes) -> None:
    """No piece is as long as the guest, but together they are."""
    storage = firmware.story.storage
    storage.size = 16 * MIB
    for at in range(MIB, 16 * MIB, 2 * MIB):
        storage.frames.append(("somebody", at, at + PAGE))
    guest = host.start("new", image, memory=12 * MIB)
    assert len(storage.translate(guest.asce, 0, 12 * MIB)) > 5
    for component in load(image).components:
        ranges = storage.translate(guest.asce, component.placement.address, component.placement.size)
        assert b"".join(storage.read(at, end - at) for at, end in ranges) == component.pages
    host.stop("new")
    assert {line.holder for line in host.storage().held} == {"somebody"}


def test_too_little_storage_is_refused_and_given_back(firmware: Any, host: Host, image: bytes) -> None:
    firmware.story.storage.size = 64 * MIB
    with pytest.raises(Refused, match="free in one piece"):
        host.start("new", image)
    assert host.storage().held == []


@pytest.mark.parametrize("initialised", [True, False])
def test_every_call_refused_in_turn_gives_everything_back(
    firmware: Any, host: Host, image: bytes, *, initialised: bool
) -> None:
    firmware.story.storage.initialised = initialised
    calls = calls_of_a_start(firmware, host, image)
    assert calls.count("init_storage") == (0 if initialised else 1)
    wanted = {"create_guest", "create_cpu", "set_parameters", "unpack", "verify", "start_guest", "free"}
    assert wanted < set(calls)
    for at, name in enumerate(calls):
        firmware.story.before = Refusing(at)
        with pytest.raises(Refused, match=f"call {at} is refused") as refused:
            host.start("new", image, cpus=2)
        assert (refused.value.code, refused.value.findings) == (CODE, ()), name
        firmware.story.before = lambda name, body: None
        left = host.storage()
        assert {line.use for line in left.held if line.secure} <= {"zone base"}, name
        assert {line.holder.split()[0] for line in left.held} <= {"firmware"}, name
        assert [guest.name for guest in host.guests()] == ["payments", "lab"]
        if left.initialised != initialised:
            return  # from here on it is as if it had been initialised before


@pytest.mark.parametrize("lost", ["create_guest", "create_cpu", "set_parameters", "verify", "start_guest"])
def test_a_lost_answer_leaves_nothing_behind(firmware: Any, host: Host, image: bytes, lost: str) -> None:
    """What was created although nobody was told its handle is found and destroyed."""
    firmware.story.lost = {lost}
    with pytest.raises(DoorBroken, match="broke off"):
        host.start("new", image, cpus=2)
    firmware.story.lost = set()
    assert host.storage().held == []
    assert [guest.name for guest in host.guests()] == ["payments", "lab"]


def test_an_interrupted_start_is_undone(firmware: Any, host: Host, image: bytes) -> None:
    def interrupt(at: Progress) -> None:
        if at.stage == "unpacking":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        host.start("new", image, progress=interrupt)
    assert host.storage().held == []


def test_a_start_that_another_host_stopped_gives_back_what_is_left(
    firmware: Any, host: Host, image: bytes
) -> None:
    def stopped(at: Progress) -> None:
        if at.stage == "verifying":
            Host(state=firmware.state).stop("new")

    with pytest.raises(Refused) as refused:
        host.start("new", image, cpus=2, progress=stopped)
    assert (refused.value.code, refused.value.findings) == (0x20, ())
    assert host.storage().held == []


def test_a_guest_created_half_is_destroyed(firmware: Any, host: Host, image: bytes) -> None:
    firmware.story.half = 0x010D
    firmware.story.asked.clear()
    with pytest.raises(Refused, match="half made") as refused:
        host.start("new", image)
    assert refused.value.code == 0x810D
    assert refused.value.handle is not None
    assert firmware.story.asked.index("destroy_guest") < firmware.story.asked.index("free")
    assert host.storage().held == []
    assert "new" not in firmware.story.guests


def test_a_guest_created_half_that_cannot_be_destroyed_is_leaked(
    firmware: Any, host: Host, image: bytes
) -> None:
    firmware.story.half = 0x0104
    firmware.story.before = refusing("destroy_guest")
    with pytest.raises(Refused) as refused:
        host.start("new", image)
    assert refused.value.code == 0x8104
    assert "stays allocated" in refused.value.findings[-1]
    assert "free" not in firmware.story.asked
    firmware.story.before = lambda name, body: None
    with pytest.raises(GuestThere, match=r"half made: stop it first \(`keyvisor host stop new`\)"):
        host.start("new", image)
    host.stop("new")
    assert host.storage().held == []


@pytest.mark.parametrize("refused_too", ["destroy_cpu", "destroy_guest"])
def test_part1_T12_what_cannot_be_destroyed_is_not_given_back(
    firmware: Any, host: Host, image: bytes, refused_too: str
) -> None:
    firmware.story.before = refusing("verify", refused_too)
    with pytest.raises(Refused, match=r"^verify is refused") as refused:
        host.start("new", image, cpus=2)
    (note,) = refused.value.findings
    assert note.startswith(f"undoing it failed too ({refused_too} is refused")
    assert note.endswith("stays allocated; try `keyvisor host stop new`")
    assert firmware.story.asked.count("free") == 1  # the header's page, before
    firmware.story.before = lambda name, body: None
    reserved = {label.split()[2] for label, _, _ in firmware.story.storage.frames}
    assert len(reserved) == 1
    host.stop("new")
    assert host.storage().held == []


def test_a_daemon_that_ends_meanwhile_is_told_with_what_stays(
    firmware: Any, host: Host, image: bytes
) -> None:
    def end(at: Progress) -> None:
        if at.stage == "verifying":
            firmware.close()

    with pytest.raises(SdkError, match="nobody listens") as ended:
        host.start("new", image, progress=end)
    assert "try `keyvisor host stop new`" in str(ended.value).splitlines()[1]


def test_the_name_is_taken(firmware: Any, host: Host, image: bytes) -> None:
    with pytest.raises(GuestThere, match="`payments` runs already: stop it first"):
        host.start("payments", image)
    assert "allocate" not in firmware.story.asked


def taking(
    firmware: Any, name: str, part: Callable[[Any], tuple[int, int]], times: int
) -> Callable[..., None]:
    """Somebody else donates what a call offers, just before it."""
    left = [times]

    def hook(asked: str, body: Any) -> None:
        if asked == name and left[0]:
            left[0] -= 1
            start, length = part(body)
            firmware.story.storage.take(start, start + length, "other", "guest memory", 7)

    return hook


def test_storage_that_another_host_took_is_replaced(firmware: Any, host: Host, image: bytes) -> None:
    story = firmware.story
    for name, part in (
        ("create_guest", lambda body: (body.base, PAGE)),
        ("create_guest", lambda body: (story.storage.translate(body.asce, body.virtual, PAGE)[0][0], PAGE)),
        ("create_cpu", lambda body: (body.storage, PAGE)),
    ):
        for times in (1, 2):
            story.before = taking(firmware, name, part, times)
            assert host.start("new", image).state == "running"
            host.stop("new")
            assert [line.holder for line in host.storage().held] == ["other"]
            story.storage.release(7)
            story.storage.frames.clear()
        story.before = taking(firmware, name, part, 3)
        with pytest.raises(Refused, match="cannot be used"):
            host.start("new", image)
        assert [line.holder for line in host.storage().held] == ["other"]
        assert "new" not in story.guests
        story.storage.release(7)
        story.storage.frames.clear()


def test_a_refusal_that_other_storage_does_not_help_is_not_tried_again(
    firmware: Any, host: Host, image: bytes
) -> None:
    firmware.story.before = refusing("create_guest")
    with pytest.raises(Refused):
        host.start("new", image)
    assert firmware.story.asked.count("create_guest") == 1


@pytest.mark.parametrize("initialised", [True, False])
def test_two_hosts_start_the_same_name(firmware: Any, host: Host, image: bytes, *, initialised: bool) -> None:
    """Wherever the one is when the other begins: one of the two has the guest, and all of its storage."""
    firmware.story.storage.initialised = initialised
    calls = calls_of_a_start(firmware, host, image)
    firmware.story.storage.initialised = True
    host.start("new", image, cpus=2)
    alone = shape(host.storage())
    host.stop("new")
    outcomes: set[tuple[bool, bool]] = set()
    for at in range(len(calls)):
        firmware.story.storage.initialised = initialised
        started: dict[str, bool] = {}

        def begin(who: str, started: dict[str, bool] = started) -> None:
            try:
                host.start("new", image, cpus=2)
            except (Refused, GuestThere):
                started[who] = False
            else:
                started[who] = True

        firmware.story.before = between(firmware, at, lambda begin=begin: begin("second"))  # type: ignore[misc]
        begin("first")
        outcomes.add((started["first"], started["second"]))
        zone = [line for line in shape(host.storage()) if line[0].startswith("firmware")]
        assert [line for line in shape(host.storage()) if line not in zone] == alone, calls[at]
        assert len(zone) <= 1
        host.stop("new")
        assert {line.use for line in host.storage().held} <= {"zone base"}
        firmware.story.storage.release(0)
        firmware.story.storage.frames.clear()
    assert outcomes == {(True, False), (False, True)}


def test_two_hosts_start_different_guests(firmware: Any, host: Host, image: bytes) -> None:
    calls = calls_of_a_start(firmware, host, image)
    for at in range(len(calls)):
        firmware.story.before = between(firmware, at, lambda: host.start("other", image))
        host.start("new", image, cpus=2)
        host.stop("new")
        assert firmware.story.guests["other"].state == "running"
        host.stop("other")
        assert host.storage().held == []


def test_a_host_that_died_leaves_nothing_that_cannot_be_cleared(
    firmware: Any, host: Host, image: bytes
) -> None:
    calls = calls_of_a_start(firmware, host, image)
    for at in range(len(calls)):
        firmware.story.before = dying(at)
        with pytest.raises(Refused, match="the host is dead"):
            host.start("new", image, cpus=2)
        firmware.story.before = lambda name, body: None
        if "new" in firmware.story.guests:
            with pytest.raises(GuestThere, match="half made"):
                host.start("new", image)
            host.stop("new")
            assert host.storage().held == [], calls[at]
        host.start("new", image)
        tokens = {label.split()[2] for label, _, _ in firmware.story.storage.frames}
        assert len(tokens) == 1, calls[at]
        host.stop("new")
        assert host.storage().held == [], calls[at]


def test_another_host_initialises_meanwhile(firmware: Any, host: Host, image: bytes) -> None:
    story = firmware.story.storage
    story.initialised = False

    def hook(name: str, body: object) -> None:
        if name == "init_storage" and not story.initialised:
            story.take(1 << 32, (1 << 32) + story.query.zone_base, "firmware", "zone base", 0)
            story.initialised = True

    firmware.story.before = hook
    assert host.start("new", image).state == "running"
    host.stop("new")
    assert [(line.holder, line.use, line.first) for line in host.storage().held] == [
        ("firmware", "zone base", 1 << 32)
    ]
