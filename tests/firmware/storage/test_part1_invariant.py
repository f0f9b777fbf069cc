"""T15 of the must-test list: secure pages are live donations and imported pages, page by page, after every step.

The steps are all calls of an honest host and of one that lies, with daemons that die in between and commits that fail. The
model beside is written page by page: dictionaries of addresses, and nothing of the firmware's intervals.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import ClassVar, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.exc import OperationalError

from keyvisor_firmware.config import Limits, StorageLimits
from keyvisor_firmware.errors import AccessRefused, StorageRefused
from keyvisor_firmware.secrets import UvError
from keyvisor_firmware.storage.pages import MIB, PAGE, Span
from keyvisor_guest.errors import Refused
from keyvisor_hsm.master_keys import OperatorToken

from .world import TWO_GIB, Killed, World, disk_full, tables

FIRST = TWO_GIB - MIB  # the storage that the hosts use: from here to the end
SIZE = TWO_GIB + 2 * MIB
LIMITS = Limits(guests=3, association_secrets=2, retrievable_secrets=1)
STORAGE = StorageLimits(size=SIZE, max_cpus=2, ranges=24)
MEMORY = 0x1A000  # bytes of each guest: the image's two pages, one behind them, and what is below
IMAGE = (0x17000, 0x18000)
HEADER = 1 << 30  # where the host keeps the image's header
STEPS = int(os.environ.get("KEYVISOR_TEST_STEPS", "40"))
EXAMPLES = int(os.environ.get("KEYVISOR_TEST_EXAMPLES", "40"))

NAMES = ("payments", "billing", "ledger")
LENGTHS = (0, 1, 16, PAGE, 3 * PAGE)
ORIGINS = (TWO_GIB, TWO_GIB + MIB, TWO_GIB + PAGE, FIRST, SIZE, SIZE - PAGE)
STEPS_OF_HOSTS = Counter(  # how often each is chosen, beside the others
    {
        "again": 1,
        "init": 1,
        "prepare": 3,
        "free": 1,
        "access": 2,
        "create": 4,
        "destroy guest": 4,
        "map back": 2,
        "unmap": 2,
        "remap": 3,
        "create cpu": 3,
        "destroy cpu": 3,
        "set parameters": 1,
        "unpack": 3,
        "verify": 1,
        "run": 1,
        "boot": 3,
        "export": 5,
        "import": 6,
        "read": 2,
        "write": 2,
        "add secret": 1,
    }
)
PICK = st.integers(0, 1 << 16)  # one of however many there are
FREQUENTLY = st.sampled_from([True, True, True, False])

Owner = tuple[int, bool, int | None]  # domain, the firmware's, virtual address
T = TypeVar("T")


@dataclass
class Guest:
    """A guest as the model knows it. Addresses are bytes, of pages; `variable` is in the order of virtual addresses."""

    name: str
    state: str
    asce: int
    base: list[int]
    variable: dict[int, int]
    cpus: dict[int, tuple[int, int]] = field(default_factory=dict)  # by number: handle, page
    secure: dict[int, int] = field(default_factory=dict)  # its own pages: address, where
    out: dict[int, bytes] = field(default_factory=dict)  # what the host got last
    clear: dict[int, bytes] = field(default_factory=dict)  # the first bytes of each page
    unpacked: list[tuple[int, bool]] = field(default_factory=list)  # address, whether as the owner made it
    secrets: int = 0


@dataclass
class Offered:
    """What a host has reserved and mapped for a guest."""

    name: str
    asce: int
    sca: int
    base: int
    variable: list[int]
    memory: list[int]


def pages(start: int, length: int) -> list[int]:
    """The pages of a piece that begins on one."""
    return list(range(start, start + length, PAGE))


class Hosts(RuleBasedStateMachine):
    """Two hosts on one machine, of which one lies; and the model."""

    token: ClassVar[OperatorToken]

    def __init__(self) -> None:
        super().__init__()
        self._cleanup = contextlib.ExitStack()

    @initialize(
        begun=st.sampled_from([0, 1, 2, 3, 4, 5, 5, 5]),
        pieces=st.integers(1, 3),
        luck=st.randoms(use_true_random=True),
    )
    def boot(self, begun: int, pieces: int, luck: Random) -> None:
        """With nothing, the zone, a guest that is created, one that runs, and another one, and a third one offered."""
        directory = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="kv-"))
        self.world = World(Path(directory) / "state.db", self.token, LIMITS, STORAGE)
        self._cleanup.callback(lambda: self.world.database.close())
        self.query = self.world.host.query_storage()
        self.image = self.world.image()
        self.world.host.memory.write(HEADER, self.image.header)
        self.zone: list[int] = []
        self.guests: dict[int, Guest] = {}
        self.gone: list[int] = []  # handles of guests that are destroyed
        self.spaces: dict[int, dict[int, int]] = {}
        self.frames: dict[int, str] = {}
        self.offers: list[Offered] = []
        self.secrets_made = 0
        self.luck = luck
        self.safe = True
        if begun > 0:
            self.init(pieces % 2, 0)
        if begun > 1:
            self.prepare("payments", pieces)
            self.create(0, 0, True, 0)
        if begun > 2:
            self.boot_honestly(0)
        if begun > 3:
            self.prepare("billing", pieces)
            self.create(1, 0, True, 0)
        if begun > 4:
            self.boot_honestly(1)
            self.prepare("ledger", 4 - pieces)
        self.safe = False

    def teardown(self) -> None:
        self._cleanup.close()

    # --- the model

    def owners(self) -> dict[int, Owner]:
        """Every secure page there should be."""
        found: dict[int, Owner] = dict.fromkeys(self.zone, (0, True, None))
        donated = len(self.zone)
        for handle, guest in self.guests.items():
            found |= dict.fromkeys(guest.base, (handle, True, None))
            found |= {page: (handle, True, virtual) for virtual, page in guest.variable.items()}
            found |= {page: (handle, True, None) for _, page in guest.cpus.values()}
            found |= {page: (handle, False, address) for address, page in guest.secure.items()}
            donated += len(guest.base) + len(guest.variable) + len(guest.cpus) + len(guest.secure)
        assert len(found) == donated, "a page was donated twice"
        return found

    def fits(self, gained: dict[int, Owner], lost: Iterable[int] = ()) -> bool:
        """Whether the table has a slot for every piece of storage then."""
        owners = self.owners() | gained
        for page in lost:
            del owners[page]
        return sum(1 for page in owners if not _goes_on(owners, page)) <= STORAGE.ranges

    def mapped(self, asce: int, virtual: int, length: int) -> list[int] | None:
        """Where the host mapped these pages; None for a hole."""
        space = self.spaces.get(asce, {})
        found = [space.get(address) for address in pages(virtual, length)]
        return None if None in found else [page for page in found if page is not None]

    def unchanged(self, guest: Guest) -> bool:
        """Whether the variable area is mapped as it was donated."""
        space = self.spaces.get(guest.asce, {})
        return all(space.get(virtual) == page for virtual, page in guest.variable.items())

    def takable(self, found: list[int] | None) -> bool:
        """Whether a guest may get these pages: the host's own, each once, and not the lowcore."""
        if found is None:
            return False
        owners = self.owners()
        return len(set(found)) == len(found) and all(
            page not in owners and 2 * PAGE <= page < SIZE for page in found
        )

    def any_guest(self, pick: int) -> tuple[int, Guest]:
        """One of them."""
        handles = list(self.guests)
        handle = handles[pick % len(handles)]
        return handle, self.guests[handle]

    def any_page(self, pick: int) -> int:
        """A page: of those that are in use mostly, and those beside them."""
        owners = list(self.owners())
        choices = [*owners, *self.frames, *(page + PAGE for page in owners[::16]), 0, PAGE, SIZE - PAGE]
        return min(choices[pick % len(choices)], SIZE - PAGE)

    def handle_like(self, pick: int) -> int:
        """A handle that no guest has."""
        cpus = [cpu for guest in self.guests.values() for cpu, _ in guest.cpus.values()]
        choices = [handle for handle in (1, 4711, *self.gone[-2:], *cpus) if handle not in self.guests]
        return choices[pick % len(choices)]

    # --- a call

    def tried(self, may: bool, call: Callable[[], T]) -> tuple[bool, T | None]:
        """Do it: it succeeds if it may, or the failure that is due strikes. Whether it was done, and the answer."""
        armed = self.fate()
        try:
            answer = call()
        except (Refused, StorageRefused, AccessRefused, UvError) as refusal:
            if may:
                raise AssertionError("a call was refused that should have been done") from refusal
        except OperationalError:
            assert armed
        except Killed:
            assert armed
            self.world.again()
        else:
            assert may, "a call was done that should have been refused"
            self.world.fail()
            return True, answer
        self.world.fail()
        return False, None

    # --- failures

    def fate(self) -> bool:
        """Every tenth call's first, second or third commit fails, or kills the daemon."""
        if self.safe or self.luck.randrange(10):
            return False
        error = self.luck.choice([Killed, disk_full])()
        self.world.fail(*[None] * self.luck.choice((0, 0, 0, 1, 2)), error)
        return True

    def again(self) -> None:
        self.world.again()

    # --- the zone

    def init(self, pick: int, more: int) -> None:
        origin = ORIGINS[pick % len(ORIGINS)]
        length = self.query.zone_base + more
        may = not self.zone and more == 0 and origin in (TWO_GIB, TWO_GIB + MIB)
        if self.tried(may, lambda: self.world.host.init(origin, length))[0]:
            self.zone = pages(origin, length)

    # --- the host's own

    def reserve(self, label: str, length: int, alignment: int = PAGE) -> int | None:
        """As its kernel does: the lowest that is neither reserved nor secure."""
        owners = self.owners()
        start = FIRST
        while start + length <= SIZE and any(p in owners or p in self.frames for p in pages(start, length)):
            start += alignment
        done, answer = self.tried(
            start + length <= SIZE,
            lambda: self.world.host.memory.allocate(label, length, alignment, FIRST),
        )
        if not done or answer is None:
            return None
        assert answer == start
        self.frames |= dict.fromkeys(pages(start, length), label)
        return start

    def map(self, asce: int, virtual: int, absolute: int, length: int) -> None:
        call = lambda: self.world.host.memory.map(asce, virtual, absolute, length)  # noqa: E731
        if self.tried(absolute + length <= SIZE, call)[0]:
            new = zip(pages(virtual, length), pages(absolute, length), strict=True)
            self.spaces.setdefault(asce, {}).update(new)

    def prepare(self, name: str, pieces: int) -> None:
        """Reserve and map all that a guest needs, scattered."""
        label = f"guest {name}"
        variable = self.query.guest_virtual(MEMORY)
        asce, sca = self.reserve(label, PAGE), self.reserve(label, PAGE)
        base = self.reserve(label, self.query.guest_base, 1 << 14)
        found: list[int] = []
        part = variable // PAGE // pieces * PAGE
        for number in range(pieces):
            length = part if number + 1 < pieces else variable - part * (pieces - 1)
            start = self.reserve(label, length)
            if start is None:
                return
            found[:0] = pages(start, length)
        memory = self.reserve(label, MEMORY)
        if asce is None or sca is None or base is None or memory is None:
            return
        for at, page in enumerate(found):
            if at == 0 or found[at - 1] + PAGE != page:
                run = next(n for n in range(1, 1 << 10) if page + n * PAGE not in found[at + n : at + n + 1])
                self.map(asce, MEMORY + at * PAGE, page, run * PAGE)
        self.map(asce, 0, memory, MEMORY)
        offer = Offered(name, asce, sca, base, found, pages(memory, MEMORY))
        self.offers = [*self.offers[-3:], offer]

    def free(self, name: str) -> None:
        label = f"guest {name}"
        mine = [page for page, text in self.frames.items() if text == label]
        done, answer = self.tried(True, lambda: self.world.host.memory.free(label))
        if done and answer is not None:
            in_use = {guest.asce for guest in self.guests.values()}
            staying = {*self.owners(), *in_use}
            for page in mine:
                if page not in staying:
                    del self.frames[page]
                if page not in in_use:
                    self.spaces.pop(page, None)
            kept = sum(page in staying for page in mine)
            assert (answer.freed, answer.kept) == ((len(mine) - kept) * PAGE, kept * PAGE)

    def remap(self, pick: int, page: int, at: int, count: int) -> None:
        """A host that lies lets a guest's addresses lead elsewhere."""
        guest = self.any_guest(pick)[1]
        places = [*guest.variable, *pages(0, MEMORY)]
        self.map(guest.asce, places[at % len(places)], self.any_page(page), count * PAGE)

    def unmap(self, pick: int, at: int) -> None:
        guest = self.any_guest(pick)[1]
        places = [*guest.variable, *guest.secure, *pages(0, MEMORY)]
        virtual = places[at % len(places)]
        if self.tried(True, lambda: self.world.host.memory.unmap(guest.asce, virtual, PAGE))[0]:
            self.spaces.get(guest.asce, {}).pop(virtual, None)

    def map_back(self, pick: int) -> None:
        """All of the guest's that is secure is where it was."""
        self.mend(self.any_guest(pick)[1])

    def mend(self, guest: Guest) -> None:
        space = self.spaces.get(guest.asce, {})
        for virtual, page in [*guest.variable.items(), *guest.secure.items()]:
            if space.get(virtual) != page:
                self.map(guest.asce, virtual, page, PAGE)

    def access(self, page: int, offset: int, length: int) -> None:
        """The host reads and writes: all of it, or an interruption."""
        start = max(self.any_page(page) + offset, 0)
        owners = self.owners()
        touched = [p for p in pages(start - start % PAGE, length + start % PAGE) if length]
        may = start + length <= SIZE and not any(p in owners for p in touched)
        data = os.urandom(length)
        done = self.tried(may, lambda: self.world.host.memory.write(start, data))[0]
        read, answer = self.tried(may, lambda: self.world.host.memory.read(start, length))
        assert not done or not read or answer == data

    # --- donations

    def create(self, pick: int, lie: int, honest: bool, page: int) -> None:
        """An offer as it was prepared, or with one thing of it changed."""
        if not self.offers:
            return
        offer = self.offers[pick % len(self.offers)]
        other = self.any_page(page)
        asces = [guest.asce for guest in self.guests.values()] or [0]
        length = len(offer.variable) * PAGE
        given = {
            "base": offer.base,
            "base_length": self.query.guest_base,
            "virtual": MEMORY,
            "virtual_length": length,
            "storage_length": MEMORY,
            "asce": offer.asce,
            "sca": offer.sca,
        }
        lies: list[dict[str, int]] = [
            {"base": other},
            {"base": other - other % (1 << 14)},
            {"base_length": self.query.guest_base - PAGE},
            {"virtual": MEMORY + PAGE},
            {"virtual": MEMORY - PAGE},
            {"virtual_length": length + PAGE},
            {"asce": asces[lie % len(asces)]},
            {"sca": 0},
            {"sca": other},
            {"sca": offer.base},
            {"storage_length": MEMORY - 1},
        ]
        if not honest:
            given |= lies[lie % len(lies)]
        self._create(offer.name, given)

    def _create(self, name: str, given: dict[str, int]) -> None:
        first, second = self.may_create(name, given), self.may_finish(given)
        armed, before = self.fate(), set(self.world.holdings.guests)
        handle: int | None = None
        state = "created"
        try:
            handle = self.world.host.create_guest(name, **given)
            assert first
            assert second
        except Refused as refusal:
            handle, state = refusal.handle, "unfinished"
            assert armed or (handle is not None) == (first and not second)
            assert handle is None or first
            assert not (first and second) or armed
        except OperationalError:
            assert armed
        except Killed:
            assert armed
            self.world.again()
            new = set(self.world.holdings.guests) - before
            handle, state = (new.pop() if new else None), "unfinished"
            assert handle is None or first
        self.world.fail()
        if handle is None:
            return
        assert handle not in before
        assert handle not in self.gone
        variable = self.mapped(given["asce"], given["virtual"], given["virtual_length"])
        assert variable is not None
        virtual = pages(given["virtual"], given["virtual_length"])
        self.guests[handle] = Guest(
            name,
            state,
            given["asce"],
            pages(given["base"], given["base_length"]),
            dict(zip(virtual, variable, strict=True)),
        )

    def may_create(self, name: str, given: dict[str, int]) -> bool:
        """Whether the donation can be taken."""
        owners = self.owners()
        virtual, end = given["virtual"], given["virtual"] + given["virtual_length"]
        if (
            not self.zone
            or len(self.guests) >= LIMITS.guests
            or given["base_length"] != self.query.guest_base
            or given["base"] % (1 << 14)
            or given["virtual_length"] != self.query.guest_virtual(MEMORY)
            or given["storage_length"] % PAGE
            or (virtual < MEMORY and end > 0)
            or name in {guest.name for guest in self.guests.values()}
        ):
            return False
        found = self.mapped(given["asce"], virtual, end - virtual)
        base = pages(given["base"], given["base_length"])
        if found is None or not self.takable([*base, *found]):
            return False
        handle = 1 << 50  # whatever it will be
        new: dict[int, Owner] = dict.fromkeys(base, (handle, True, None))
        new |= {page: (handle, True, virtual + at * PAGE) for at, page in enumerate(found)}
        assert not set(new) & set(owners)
        return self.fits(new)

    def may_finish(self, given: dict[str, int]) -> bool:
        """Whether what the host keeps on its side can be used, once the donation is secure."""
        variable = self.mapped(given["asce"], given["virtual"], given["virtual_length"]) or []
        secure = {*self.owners(), *pages(given["base"], given["base_length"]), *variable}
        return (
            given["asce"] not in {guest.asce for guest in self.guests.values()}
            and 2 * PAGE <= given["sca"] < SIZE
            and given["sca"] not in secure
        )

    def create_cpu(self, pick: int, page: int, number: int, honest: bool, length: int) -> None:
        handle, guest = self.any_guest(pick)
        start = self.reserve(f"guest {guest.name}", PAGE) if honest else self.any_page(page)
        if start is None:
            return
        may = (
            guest.state != "unfinished"
            and number < STORAGE.max_cpus
            and number not in guest.cpus
            and length == 1
            and self.takable([start])
            and self.fits({start: (handle, True, None)})
        )
        done, cpu = self.tried(
            may,
            lambda: self.world.host.create_cpu(handle, number, storage=start, storage_length=length * PAGE),
        )
        if done and cpu is not None:
            guest.cpus[number] = cpu, start

    def destroy_cpu(self, pick: int, number: int) -> None:
        guest = self.any_guest(pick)[1]
        handle, page = guest.cpus.get(number, (self.handle_like(pick), 0))
        handle = handle if page else 4711
        may = bool(page) and self.fits({}, [page])
        if self.tried(may, lambda: self.world.host.destroy_cpu(handle))[0]:
            del guest.cpus[number]
            self.is_clear([page])

    def destroy_guest(self, pick: int, wrong: bool, mend: bool) -> None:
        if wrong or not self.guests:
            self.tried(False, lambda: self.world.host.destroy_guest(self.handle_like(pick)))
            return
        handle, guest = self.any_guest(pick)
        if mend:
            self.mend(guest)
            for number, (cpu, page) in sorted(guest.cpus.items()):
                if self.tried(self.fits({}, [page]), lambda cpu=cpu: self.world.host.destroy_cpu(cpu))[0]:
                    del guest.cpus[number]
        may = not guest.cpus and self.unchanged(guest)
        if self.tried(may, lambda: self.world.host.destroy_guest(handle))[0]:
            del self.guests[handle]
            self.gone.append(handle)
            self.is_clear([*guest.base, *guest.variable.values(), *guest.secure.values()])

    def is_clear(self, released: list[int]) -> None:
        """The host gets zeros."""
        for page in released:
            assert not self.world.stored(Span(page, PAGE))

    # --- boot

    def set_parameters(self, pick: int, page: int, honest: bool) -> None:
        handle, guest = self.any_guest(pick)
        at = HEADER if honest else self.any_page(page)
        call = lambda: self.world.host.set_parameters(handle, at, len(self.image.header))  # noqa: E731
        if self.tried(guest.state == "created" and honest, call)[0]:
            guest.state = "parameters"

    def unpack(self, pick: int, which: int, honest: bool) -> None:
        """A page of the image, with what the owner made in it, or what happens to be there; or a page that is in none."""
        handle, guest = self.any_guest(pick)
        component = self.image.components[which % 2]
        address = component.placement.address if which < 2 else 0
        found = self.mapped(guest.asce, address, PAGE)
        may = (
            guest.state == "parameters"
            and address not in guest.secure
            and address not in {run for run, _ in guest.unpacked}
            and self.unchanged(guest)
            and self.takable(found)
            and self.fits({(found or [0])[0]: (handle, False, address)})
        )
        if found is not None and self.takable(found) and honest:
            self.tried(True, lambda: self.world.host.memory.write(found[0], component.pages))
        right = (
            which < 2
            and found is not None
            and self.takable(found)
            and self.world.host.memory.read(found[0], PAGE) == component.pages
        )
        call = lambda: self.world.host.unpack(  # noqa: E731
            handle, address, PAGE, tweak=component.placement.tweak_prefix, offset=0
        )
        if self.tried(may, call)[0]:
            assert found is not None
            guest.secure[address] = found[0]
            guest.unpacked.append((address, right))

    def verify(self, pick: int) -> None:
        handle, guest = self.any_guest(pick)
        space = self.spaces.get(guest.asce, {})
        may = (
            guest.state == "parameters"
            and guest.unpacked == [(address, True) for address in IMAGE]
            and all(space.get(address) == page for address, page in guest.secure.items())
        )
        if self.tried(may, lambda: self.world.host.verify(handle))[0]:
            guest.state = "verified"
            guest.clear = {IMAGE[0]: b"kernel of paymen"}

    def run(self, pick: int) -> None:
        handle, guest = self.any_guest(pick)
        may = guest.state == "verified" and bool(guest.cpus)
        done, _ = self.tried(may, lambda: self.world.host.run(handle))
        state = self.world.holdings.guests[handle].slot.state.value
        if done or (may and state == "running"):  # what failed may have been the answer
            guest.state = "running"

    def boot_honestly(self, pick: int) -> None:
        """As many of the next steps as are possible."""
        number = pick % len(self.guests)
        if self.any_guest(number)[1].state == "created":
            self.set_parameters(number, 0, True)
        for which in (0, 1):
            self.unpack(number, which, True)
        self.verify(number)
        self.create_cpu(number, 0, 0, True, 1)
        self.run(number)

    # --- paging

    def export(self, pick: int, at: int, mend: bool) -> None:
        handle, guest = self.any_guest(pick)
        if mend:
            self.mend(guest)
        places = [*guest.secure, *guest.secure, *guest.secure, 0, MEMORY - PAGE, MEMORY]
        address = places[at % len(places)]
        page = guest.secure.get(address)
        may = (
            guest.state in ("verified", "running")
            and page is not None
            and self.spaces.get(guest.asce, {}).get(address) == page
            and self.unchanged(guest)
            and self.fits({}, [page])
        )
        span = Span(address, PAGE)
        if self.tried(may, lambda: self.world.firmware.paging.export_pages(handle, span))[0]:
            assert page is not None
            exported = self.world.host.memory.read(page, PAGE)
            assert exported != guest.out.get(address)
            guest.out[address] = exported
            del guest.secure[address]

    def import_(self, pick: int, at: int, honest: bool) -> None:
        """A page that went out, or a new one; what it holds is what the host got last, or whatever is there."""
        handle, guest = self.any_guest(pick)
        places = [*guest.out, *guest.secure, 0, PAGE, IMAGE[1] + PAGE, MEMORY]
        address = places[at % len(places)]
        found = self.mapped(guest.asce, address, PAGE)
        if honest:
            self.mend(guest)
            found = self.mapped(guest.asce, address, PAGE)
        if honest and address in guest.out and self.takable(found) and found is not None:
            self.tried(True, lambda: self.world.host.memory.write(found[0], guest.out[address]))
        may = (
            guest.state in ("verified", "running")
            and address < MEMORY
            and address not in guest.secure
            and self.unchanged(guest)
            and self.takable(found)
            and self.fits({(found or [0])[0]: (handle, False, address)})
        )
        if may and address in guest.out and found is not None:
            may = self.world.host.memory.read(found[0], PAGE) == guest.out[address]
        span = Span(address, PAGE)
        if self.tried(may, lambda: self.world.firmware.paging.import_pages(handle, span))[0]:
            assert found is not None
            guest.secure[address] = found[0]
            if address not in guest.out:
                guest.clear[address] = bytes(16)

    # --- the guest

    def guest_access(self, pick: int, at: int, write: bool) -> None:
        handle, guest = self.any_guest(pick)
        if guest.state != "running":
            return
        places = [*list(guest.secure) * 3, *guest.out, 0, MEMORY, *list(guest.variable)[:1]]
        address = places[at % len(places)]
        page = self.spaces.get(guest.asce, {}).get(address)
        may = address < MEMORY and page is not None and guest.secure.get(address) == page
        instance = self.world.holdings.guests[handle].row.instance
        if write:
            data = os.urandom(16)
            call = lambda: self.world.firmware.paging.write(instance, address, data)  # noqa: E731
            if self.tried(may, call)[0]:
                guest.clear[address] = data
        else:
            done, answer = self.tried(
                may, lambda: self.world.firmware.paging.read(instance, Span(address, 16))
            )
            assert not done or address not in guest.clear or answer == guest.clear[address]

    def add_secret(self, pick: int) -> None:
        """What the firmware keeps of the guest changes, in the donation, if that is where it was."""
        handle, guest = self.any_guest(pick)
        if guest.state == "running":
            given = self.world.holdings.guests[handle]
            self.secrets_made += 1
            may = self.unchanged(guest) and guest.secrets < LIMITS.association_secrets
            name = f"secret {self.secrets_made}"
            if self.tried(may, lambda: self.world.add_secret_to(given.row.instance, name))[0]:
                guest.secrets += 1

    # --- one rule: hypothesis leaves rules out, and then whole lives do not happen

    @rule(
        what=st.sampled_from(sorted(STEPS_OF_HOSTS.elements())),
        pick=PICK,
        page=PICK,
        at=PICK,
        few=st.integers(0, 2),
        honest=FREQUENTLY,
    )
    def step(self, what: str, pick: int, page: int, at: int, few: int, honest: bool) -> None:
        handlers: dict[str, Callable[[], None]] = {
            "again": self.again,
            "init": lambda: self.init(pick, 0 if honest else PAGE * (few - 1)),
            "prepare": lambda: self.prepare(NAMES[pick % 3], few + 1),
            "free": lambda: self.free(NAMES[pick % 3]),
            "access": lambda: self.access(page, at % 17 - 8, LENGTHS[pick % len(LENGTHS)]),
            "create": lambda: self.create(pick, at, honest, page),
            "destroy guest": lambda: self.destroy_guest(pick, at % 10 == 0, honest),
        }
        of_guests: dict[str, Callable[[], None]] = {
            "map back": lambda: self.map_back(pick),
            "unmap": lambda: self.unmap(pick, at),
            "remap": lambda: self.remap(pick, page, at, few + 1),
            "create cpu": lambda: self.create_cpu(pick, page, few, honest, 1 if honest else at % 3),
            "destroy cpu": lambda: self.destroy_cpu(pick, few),
            "set parameters": lambda: self.set_parameters(pick, page, honest),
            "unpack": lambda: self.unpack(pick, few, honest),
            "verify": lambda: self.verify(pick),
            "run": lambda: self.run(pick),
            "boot": lambda: self.boot_honestly(pick),
            "export": lambda: self.export(pick, at, honest),
            "import": lambda: self.import_(pick, at, honest),
            "read": lambda: self.guest_access(pick, at, False),
            "write": lambda: self.guest_access(pick, at, True),
            "add secret": lambda: self.add_secret(pick),
        }
        if what in handlers:
            handlers[what]()
        elif self.guests:
            of_guests[what]()

    # --- what always holds

    @invariant()
    def secure_pages_are_live_donations(self) -> None:
        if not hasattr(self, "world"):
            return
        owners = self.owners()
        host = self.world.holdings.host
        found: dict[int, Owner] = {}
        for one in host.zone:
            for page in pages(one.start, one.length):
                entry = one.value.ahead(page - one.start)
                assert page not in found
                found[page] = entry.domain, entry.firmware, entry.virtual
        assert found == owners
        assert host.zone.secure_length == len(owners) * PAGE
        edges = {page for page in owners if not _goes_on(owners, page)}
        edges |= {page for page in owners if page + PAGE not in owners}
        for page in {near for edge in edges for near in (edge - PAGE, edge, edge + PAGE) if near < SIZE}:
            try:
                host.require_host_access(Span(page + PAGE - 1, 1))
            except AccessRefused:
                assert page in owners
            else:
                assert page not in owners

    @invariant()
    def tables_are_those_of_the_database(self) -> None:
        if hasattr(self, "world"):
            assert tables(self.world.holdings) == tables(self.world.rebuilt())

    @invariant()
    def the_ledger_is_the_models(self) -> None:
        if not hasattr(self, "world"):
            return
        owners = self.owners()
        wanted: Counter[tuple[str, str]] = Counter()
        wanted["firmware", "zone base"] += len(self.zone)
        for guest in self.guests.values():
            wanted[guest.name, "guest base"] += len(guest.base)
            wanted[guest.name, "guest variable"] += len(guest.variable)
            wanted[guest.name, "cpu"] += len(guest.cpus)
            wanted[guest.name, "guest memory"] += len(guest.secure)
        for page, label in self.frames.items():
            wanted[label, "host"] += page not in owners
        ledger = self.world.host.storage()
        told = {(line.holder, line.use): line.length for line in ledger.held}
        assert told == {line: count * PAGE for line, count in wanted.items() if count}
        assert ledger.secure == len(owners) * PAGE
        assert ledger.free == SIZE - len({*owners, *self.frames}) * PAGE
        assert sum(line.length for line in ledger.held) + ledger.free == SIZE

    @invariant()
    def guests_are_in_the_models_states(self) -> None:
        if hasattr(self, "world"):
            states = {
                handle: (guest.name, guest.state, sorted(guest.cpus)) for handle, guest in self.guests.items()
            }
            found = {
                handle: (
                    one.row.name,
                    one.slot.state.value,
                    [cpu.number for cpu in one.record.cpus] if one.record else [],
                )
                for handle, one in self.world.holdings.guests.items()
            }
            assert found == states


def _goes_on(owners: dict[int, Owner], page: int) -> bool:
    """Whether the page belongs to the same piece as the one before it."""
    before, entry = owners.get(page - PAGE), owners[page]
    if before is None or before[:2] != entry[:2]:
        return False
    if before[2] is None or entry[2] is None:
        return before[2] is entry[2]
    return before[2] + PAGE == entry[2]


@pytest.fixture
def hosts(operator_token: OperatorToken) -> type[Hosts]:
    """The state machine, with its token."""
    Hosts.token = operator_token
    return Hosts


@pytest.mark.timeout(1200)
def test_part1_T15_secure_pages_are_live_donations_at_every_step(hosts: type[Hosts]) -> None:
    """More of it: KEYVISOR_TEST_EXAMPLES=1000 KEYVISOR_TEST_STEPS=100."""
    run_state_machine_as_test(
        hosts,
        settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, derandomize=True),
    )
