"""Hosts that race and a daemon that is killed, as the command's user sees it: no storage is lost, and none is given twice."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from keyvisor_guest import Host
from keyvisor_guest.errors import SdkError
from keyvisor_guest.wire.qui import StorageQuery

from .conftest import World

MEMORY = 2 << 20
ROUNDS = 4


def host(world: World) -> Host:
    """The host's door of that world."""
    return Host(state=world.state)


def require_agreement(world: World) -> None:
    """The ledger has what each guest must have donated, no more and no less; the host can read none of it."""
    door = host(world)
    query, ledger = door.query_storage(), door.storage()
    secure = [line for line in ledger.held if line.secure]
    assert ledger.secure == sum(line.length for line in secure)
    assert ledger.size == ledger.free + sum(line.length for line in ledger.held)
    held = {(line.holder, line.use): line.length for line in secure if line.use != "guest memory"}
    assert held == wanted(door, query, initialised=ledger.initialised)
    for line in secure:
        with pytest.raises(SdkError, match="secure"):
            door.memory.read(line.first, 1)


def wanted(door: Host, query: StorageQuery, *, initialised: bool) -> dict[tuple[str, str], int]:
    """The donations of what there is."""
    found = {("firmware", "zone base"): query.zone_base} if initialised else {}
    for guest in door.guests():
        found[guest.name, "guest base"] = query.guest_base
        found[guest.name, "guest variable"] = query.guest_virtual(guest.storage_length)
        if guest.cpus:
            found[guest.name, "cpu"] = query.cpu * len(guest.cpus)
    return found


def require_all_free(world: World, names: Sequence[str]) -> None:
    """Every guest can be destroyed, and what a host left is cleared away: only the firmware's own is in use then."""
    for name in names:
        world.keyvisor("host", "stop", name)  # says so where there is nothing
    assert world.json("host", "list")["guests"] == []
    left = [(line.holder, line.use) for line in host(world).storage().held]
    assert [line for line in left if line != ("firmware", "zone base")] == []


def begin(world: World, *words: str) -> subprocess.Popen[str]:
    """Start a command and go on."""
    return subprocess.Popen(
        ["keyvisor", *words],
        cwd=world.directory,
        env=world.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(running: Sequence[subprocess.Popen[str]]) -> Iterator[tuple[int, str]]:
    """Exit code and output of each."""
    for process in running:
        told = process.communicate(timeout=120)[0]
        assert "Traceback" not in told
        yield process.returncode, told


def start_words(name: str, image: str) -> tuple[str, ...]:
    return "host", "start", name, "--image", f"{image}.img", "--memory", "2M", "--json"


def test_two_commands_that_start_different_guests_at_once(world: World) -> None:
    """Neither of them has initialised the firmware before."""
    world.build("payments")
    done = list(end([begin(world, *start_words(name, "payments")) for name in ("payments", "billing")]))
    assert [code for code, _ in done] == [0, 0], done
    require_agreement(world)
    assert {guest["name"] for guest in world.json("host", "list")["guests"]} == {"payments", "billing"}
    require_all_free(world, ["payments", "billing"])


def test_of_two_commands_that_start_one_guest_at_once_one_does(world: World) -> None:
    world.build("payments")
    for _ in range(3):
        done = list(end([begin(world, *start_words("payments", "payments")) for _ in range(2)]))
        assert sorted(code for code, _ in done) == [0, 1], done
        (loser,) = [told for code, told in done if code]
        assert "payments" in loser
        require_agreement(world)
        (guest,) = host(world).guests()
        assert guest.state == "running"
        require_all_free(world, ["payments"])


def test_a_command_that_is_killed_leaves_what_the_next_one_clears_away(world: World) -> None:
    """A host that dies between two steps, wherever that is: its storage is not lost, and the guest can be started."""
    world.build("payments")
    luck = random.Random(6)  # noqa: S311
    for _ in range(ROUNDS):
        command = begin(world, *start_words("payments", "payments"))
        look_until_something_is_reserved(world, luck.randrange(12))
        command.send_signal(signal.SIGKILL)
        command.communicate(timeout=60)
        require_agreement(world)
        world.keyvisor("host", "stop", "payments")
        assert host(world).guests() == []
    world.keyvisor(*start_words("payments", "payments")).ok()
    require_all_free(world, ["payments"])


def look_until_something_is_reserved(world: World, more: int) -> None:
    """Look at the ledger until there is a line, and then some more times."""
    door = host(world)
    looks = itertools.takewhile(
        lambda _: not any(not line.secure for line in door.storage().held), range(5000)
    )
    assert sum(1 for _ in looks) < 5000
    for _ in range(more):
        door.storage()


def churn(
    world: World, name: str, ended: threading.Event, done: threading.Semaphore, strange: list[Any]
) -> None:
    """Start and stop a guest until it is enough, whatever becomes of it."""
    image = (world.directory / "payments.img").read_bytes()
    door = host(world)
    while not ended.is_set():
        for call in (lambda: door.start(name, image, memory=MEMORY, cpus=2), lambda: door.stop(name)):
            try:
                call()
            except SdkError:
                pass
            except BaseException as error:
                strange.append(error)
                raise
            else:
                done.release()


def test_a_daemon_that_is_killed_at_any_moment_loses_no_storage(world: World) -> None:
    """Starts and stops go on while it dies; after each restart the ledger is the guests', and at the end all is free."""
    world.build("payments")
    luck = random.Random(68)  # noqa: S311
    names = ("payments", "billing", "ledger")
    for _ in range(ROUNDS):
        ended, done, strange = threading.Event(), threading.Semaphore(0), list[Any]()
        threads = [threading.Thread(target=churn, args=(world, name, ended, done, strange)) for name in names]
        for thread in threads:
            thread.start()
        for _ in range(1 + luck.randrange(8)):
            assert done.acquire(timeout=120)
        for _ in range(luck.randrange(30)):
            host(world).storage()
        ended.set()
        world.down(signal.SIGKILL)
        for thread in threads:
            thread.join()
        world.up()
        require_agreement(world)
        assert strange == []
    require_all_free(world, names)
    world.keyvisor(*start_words("payments", "payments")).ok()
