"""The ledger: every byte of storage is somebody's or nobody's, and of those that touch each is told on its own."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.storage.address_spaces import AddressSpaces
from keyvisor_firmware.storage.frames import Frames, Label
from keyvisor_firmware.storage.host_storage import HostStorage
from keyvisor_firmware.storage.intervals import Interval
from keyvisor_firmware.storage.ledger import Donation, HeldView, LedgerView, ledger
from keyvisor_firmware.storage.pages import PAGE, Span
from keyvisor_firmware.storage.zone_table import FIRMWARE_DOMAIN, ZoneEntry, ZoneTable

from ..machine import Machine

PAGES = 64
WEB, DB = 7, 8
NAMES = {WEB: "web", DB: "db"}

# One donation, or one piece of a guest's own: its first page, how many, and what it is.
Held = tuple[int, int, str, int]


def span(first: int, pages: int) -> Span:
    return Span(first * PAGE, pages * PAGE)


def a_ledger(held: list[Held], frames: list[tuple[int, int, str]]) -> LedgerView:
    """The ledger of this storage; a virtual piece has its page's number as its virtual address."""
    intervals, donations = [], []
    for first, pages, use, domain in held:
        at = span(first, pages)
        virtual = at.start if use in ("guest variable", "guest memory") else None
        entry = ZoneEntry(domain, firmware=use != "guest memory", virtual=virtual)
        intervals.append(Interval(at.start, at.end, entry))
        if virtual is None:
            holder = NAMES.get(domain, "firmware")
            donations.append(Donation(holder, use, at))  # type: ignore[arg-type]
    table = ZoneTable()
    for interval in intervals:  # as they are registered, so that those that touch are joined
        table.apply(table.setting([interval]))
    reserved = [Interval(a * PAGE, (a + n) * PAGE, Label(label)) for a, n, label in frames]
    storage = HostStorage(PAGES * PAGE, table, AddressSpaces(), Frames(reserved))
    return ledger(storage, donations, NAMES, initialised=True)


def line(view: LedgerView, holder: str, use: str) -> HeldView:
    (found,) = [one for one in view.held if (one.holder, one.use) == (holder, use)]
    return found


def test_an_empty_machine_is_all_free() -> None:
    assert a_ledger([], []) == LedgerView(PAGES * PAGE, True, 0, PAGES * PAGE, PAGES * PAGE, ())


def test_areas_that_touch_are_told_apart() -> None:
    """In the table a guest's base and its CPUs' areas are one range: same domain, no virtual address."""
    view = a_ledger(
        [(0, 2, "zone base", 0), (2, 4, "guest base", WEB), (6, 1, "cpu", WEB), (7, 1, "cpu", WEB)], []
    )
    assert line(view, "firmware", "zone base") == HeldView("firmware", "zone base", True, 2 * PAGE, 1, 0)
    assert line(view, "web", "guest base") == HeldView("web", "guest base", True, 4 * PAGE, 1, 2 * PAGE)
    assert line(view, "web", "cpu") == HeldView("web", "cpu", True, 2 * PAGE, 2, 6 * PAGE)
    assert (view.secure, view.free, view.largest_free) == (8 * PAGE, 56 * PAGE, 56 * PAGE)


def test_two_guests_areas_that_touch_are_two_guests() -> None:
    view = a_ledger([(3, 2, "guest variable", WEB), (5, 3, "guest variable", DB)], [])
    assert line(view, "web", "guest variable").length == 2 * PAGE
    assert line(view, "db", "guest variable").length == 3 * PAGE


def test_scattered_pieces_are_counted() -> None:
    view = a_ledger(
        [(at, 2, "guest variable", WEB) for at in (30, 10, 20)] + [(12, 1, "guest memory", WEB)], []
    )
    assert line(view, "web", "guest variable") == HeldView(
        "web", "guest variable", True, 6 * PAGE, 3, 10 * PAGE
    )
    assert line(view, "web", "guest memory").first == 12 * PAGE
    assert view.largest_free == 32 * PAGE


def test_what_is_reserved_and_not_secure_is_the_hosts() -> None:
    """Of what the allocator gave away for a guest only that is left which nothing secure has taken."""
    view = a_ledger(
        [(12, 2, "guest base", WEB), (15, 1, "cpu", WEB), (19, 4, "guest memory", WEB)],
        [(10, 10, "guest web"), (40, 1, "guest web"), (50, 2, "mine")],
    )
    assert line(view, "guest web", "host") == HeldView("guest web", "host", False, 7 * PAGE, 4, 10 * PAGE)
    assert line(view, "mine", "host") == HeldView("mine", "host", False, 2 * PAGE, 1, 50 * PAGE)
    assert view.secure == 7 * PAGE
    assert view.free == (10 + 17 + 9 + 12) * PAGE


def test_what_is_secure_altogether_is_nowhere_the_hosts() -> None:
    view = a_ledger([(4, 4, "guest base", WEB)], [(4, 4, "guest web")])
    assert [one.use for one in view.held] == ["guest base"]


USES = st.sampled_from(["guest base", "cpu", "guest variable", "guest memory"])
IN_USE = st.none() | st.tuples(USES, st.sampled_from([WEB, DB]))
RESERVED = st.none() | st.sampled_from(["a", "b"])


@given(st.lists(IN_USE, min_size=PAGES, max_size=PAGES), st.lists(RESERVED, min_size=PAGES, max_size=PAGES))
def test_every_page_is_in_one_line_or_free(
    uses: list[tuple[str, int] | None], reserved: list[str | None]
) -> None:
    """Against a model that counts pages."""
    held = [(page, 1, *use) for page, use in enumerate(uses) if use is not None]
    frames = [(page, 1, label) for page, label in enumerate(reserved) if label is not None]
    view = a_ledger(held, frames)
    model: dict[tuple[str, str], list[int]] = {}
    free = []
    for page, (use, label) in enumerate(zip(uses, reserved, strict=True)):
        if use is not None:
            model.setdefault((NAMES[use[1]], use[0]), []).append(page)
        elif label is not None:
            model.setdefault((label, "host"), []).append(page)
        else:
            free.append(page)
    assert {(one.holder, one.use): (one.length, one.first) for one in view.held} == {
        key: (len(pages) * PAGE, pages[0] * PAGE) for key, pages in model.items()
    }
    assert [one.first for one in view.held] == sorted(one.first for one in view.held)
    assert view.free == len(free) * PAGE
    assert view.largest_free == max(map(len, runs(range(PAGES), lambda page: page in free)), default=0) * PAGE
    assert view.secure == sum(one.length for one in view.held if one.secure)
    assert view.free + sum(one.length for one in view.held) == view.size


def runs(pages: range, chosen: Callable[[int], bool]) -> list[list[int]]:
    found: list[list[int]] = [[]]
    for page in pages:
        if chosen(page):
            found[-1].append(page)
        else:
            found.append([])
    return found


def test_the_firmwares_ledger_is_that_of_its_table(machine: Machine) -> None:
    """A machine with a guest: what is secure is donations and guests' pages, no more and no less."""
    before = machine.firmware.donations.ledger()
    assert (before.initialised, before.secure, before.held) == (False, 0, ())
    machine.start("payments", cpus=3)
    view = machine.firmware.donations.ledger()
    assert {(one.holder, one.use, one.length) for one in view.held if one.secure} == {
        ("firmware", "zone base", machine.holdings.amounts.zone_base),
        ("payments", "guest base", machine.holdings.amounts.guest_base),
        ("payments", "guest variable", machine.holdings.amounts.variable(32 << 20)),
        ("payments", "cpu", 3 * machine.holdings.amounts.cpu),
        ("payments", "guest memory", 2 * PAGE),
    }
    assert view.secure == sum(one.length for one in machine.holdings.host.zone)
    assert view.free + sum(one.length for one in view.held) == view.size
    machine.stop("payments")
    after = machine.firmware.donations.ledger()
    assert [one.use for one in after.held] == ["zone base"]
    assert machine.holdings.host.zone.of_domain(FIRMWARE_DOMAIN)
