"""What the SDK's Host does to start a guest, on the firmware's core: refused, dead or raced at any call, nothing is left.

The same is shown of the SDK alone in tests/guest_sdk/hosting; here the firmware says what is secure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.in_process_host import InProcessHost

from keyvisor_guest.errors import GuestThere, Refused

from .machine import Machine

MEMORY = 32 << 20
CODE = 0x0777


class Calls:
    """A host whose calls are counted; `before` is called with the number and the name of each."""

    def __init__(self, machine: Machine) -> None:
        self.host = InProcessHost(machine.firmware)
        self._image = machine.image("new")
        self._call = self.host._door.call
        self._names: list[str] = []
        self._before: Callable[[int, str], None] = lambda number, name: None
        self.host._door.call = self._counted  # type: ignore[method-assign]

    def _counted(self, name: str, *given: Any, **parameters: str) -> Any:
        self._names.append(name)
        self._before(len(self._names) - 1, name)
        return self._call(name, *given, **parameters)

    def start(self, before: Callable[[int, str], None] = lambda number, name: None) -> list[str]:
        """Start `new` with two CPUs; gives the calls that it took."""
        self._names, self._before = [], before
        try:
            self.host.start("new", self._image, memory=MEMORY, cpus=2)
        finally:
            self._before = lambda number, name: None
        return self._names

    def uses(self) -> set[str]:
        """For what storage is held."""
        return {line.use for line in self.host.storage().held}

    def a_whole_start(self) -> list[str]:
        """The calls of a start that nothing happens to, on a firmware that is initialised; the guest is stopped again."""
        self.host.init()
        names = list(self.start())
        self.host.stop("new")
        assert self.uses() == {"zone base"}
        return names


@pytest.fixture
def calls(machine: Machine) -> Calls:
    return Calls(machine)


def test_a_call_that_is_refused_gives_everything_back(calls: Calls) -> None:
    for at, name in enumerate(calls.a_whole_start()):
        refused: list[int] = []

        def refuse(number: int, asked: str, at: int = at, refused: list[int] = refused) -> None:
            # Storage that is not there in one piece is asked for again, in smaller ones.
            if number == at or (refused == [number - 2] and asked == "allocate"):
                refused.append(number)
                raise Refused("uv", CODE, "refused")

        with pytest.raises(Refused) as ended:
            calls.start(refuse)
        assert (ended.value.code, ended.value.findings) == (CODE, ()), name
        assert calls.uses() == {"zone base"}, name


def test_a_host_that_dies_leaves_what_the_next_one_clears(calls: Calls) -> None:
    for at, name in enumerate(calls.a_whole_start()):

        def die(number: int, asked: str, at: int = at) -> None:
            if number >= at:
                raise Refused("http", 503, "the host is dead")

        with pytest.raises(Refused, match="dead"):
            calls.start(die)
        if calls.host.guests():
            with pytest.raises(GuestThere, match="half made"):
                calls.start()
            calls.host.stop("new")
        calls.start()
        calls.host.stop("new")
        assert calls.uses() == {"zone base"}, name


def test_of_two_hosts_that_start_one_name_one_has_it(calls: Calls) -> None:
    outcomes = set()
    for at, name in enumerate(calls.a_whole_start()):
        second: list[bool] = []

        def race(number: int, asked: str, at: int = at, second: list[bool] = second) -> None:
            if number == at and not second:
                second.append(False)
                second[0] = started(calls)

        outcomes.add((started(calls, race), second[0]))
        held = {line.use: line.length for line in calls.host.storage().held if line.holder == "new"}
        query = calls.host.query_storage()
        assert held["guest base"] == query.guest_base, name
        assert held["guest variable"] == query.guest_virtual(MEMORY), name
        assert held["cpu"] == 2 * query.cpu, name
        assert calls.host.guests()[0].state == "running"
        calls.host.stop("new")
        assert calls.uses() == {"zone base"}, name
    assert outcomes == {(True, False), (False, True)}


def started(calls: Calls, before: Callable[[int, str], None] = lambda number, name: None) -> bool:
    try:
        calls.start(before)
    except (Refused, GuestThere):
        return False
    return True
