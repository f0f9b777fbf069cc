"""The host's frame allocator: nothing that is reserved or secure is ever given, and what is missing is told."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keyvisor_firmware.errors import Conflict, Malformed
from keyvisor_firmware.storage.frames import Frames, Label
from keyvisor_firmware.storage.intervals import Interval
from keyvisor_firmware.storage.pages import LOWCORE, PAGE, Span
from keyvisor_firmware.storage.zone_table import ZoneEntry, ZoneTable

SIZE = 40 * PAGE
LABELS = st.sampled_from(["web", "db", "other"])
COUNTS = st.integers(1, 8)


class PageByPage(RuleBasedStateMachine):
    """Reserve, free, and let pages become secure; the shadow has one entry for each page."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = Frames()
        self.zone = ZoneTable()
        self.reserved: dict[int, str] = {}
        self.secure: set[int] = set()

    @rule(
        label=LABELS,
        pages=COUNTS,
        alignment=st.sampled_from([1, 2, 4, 3]),
        at_least=st.integers(0, 41 * PAGE),
    )
    def allocate(self, label: str, pages: int, alignment: int, at_least: int) -> None:
        first_fit = next(
            (
                page
                for page in range(0, SIZE // PAGE - pages + 1, alignment)
                if page * PAGE >= max(at_least, LOWCORE)
                and not any(n in self.reserved or n in self.secure for n in range(page, page + pages))
            ),
            None,
        )
        ask = (label, pages * PAGE, alignment * PAGE, at_least, self.zone, SIZE)
        if first_fit is None:
            with pytest.raises(Conflict, match=r"\d+ bytes are missing; ") as refused:
                self.frames.allocating(*ask)
            self.check_what_is_missing(str(refused.value), pages, alignment, at_least)
            return
        allocation = self.frames.allocating(*ask)
        assert allocation.span == Span(first_fit * PAGE, pages * PAGE)
        self.frames.apply(allocation.change)
        self.reserved |= dict.fromkeys(range(first_fit, first_fit + pages), label)

    def check_what_is_missing(self, message: str, pages: int, alignment: int, at_least: int) -> None:
        found = re.search(r"(\d+) bytes are missing", message)
        assert found
        fitting = pages * PAGE - int(found[1])
        if fitting >= PAGE:
            whole = fitting // PAGE * PAGE
            self.frames.allocating("probe", whole, alignment * PAGE, at_least, self.zone, SIZE)
        with pytest.raises(Conflict):
            self.frames.allocating("probe", fitting + PAGE, alignment * PAGE, at_least, self.zone, SIZE)

    @rule(label=LABELS, pages=COUNTS)
    def take_back(self, label: str, pages: int) -> None:
        try:
            first = self.frames.allocating(label, pages * PAGE, PAGE, 0, self.zone, SIZE)
        except Conflict:
            return
        self.frames.apply(first.change)
        self.frames.apply(first.change.inverse())
        assert self.frames.allocating(label, pages * PAGE, PAGE, 0, self.zone, SIZE) == first

    @rule(page=st.integers(0, 39), pages=COUNTS, domain=st.integers(1, 2))
    def become_secure(self, page: int, pages: int, domain: int) -> None:
        end = min(page + pages, SIZE // PAGE)
        entry = ZoneEntry(domain, True)
        self.zone.apply(self.zone.setting([Interval(page * PAGE, end * PAGE, entry)]))
        self.secure |= set(range(page, end))

    @rule(page=st.integers(0, 39), pages=COUNTS)
    def become_free(self, page: int, pages: int) -> None:
        self.zone.apply(self.zone.clearing([Span(page * PAGE, pages * PAGE)]))
        self.secure -= set(range(page, page + pages))

    @rule(label=LABELS)
    def free(self, label: str) -> None:
        held = {page for page, of in self.reserved.items() if of == label}
        freeing = self.frames.freeing(label, self.zone)
        self.frames.apply(freeing.change)
        assert freeing.freed == len(held - self.secure) * PAGE
        assert freeing.kept == len(held & self.secure) * PAGE
        for page in held - self.secure:
            del self.reserved[page]

    @invariant()
    def labels_hold_what_they_reserved(self) -> None:
        for label in ("web", "db", "other"):
            pages = {n // PAGE for s in self.frames.labelled(label) for n in range(s.start, s.end, PAGE)}
            assert pages == {page for page, of in self.reserved.items() if of == label}
        assert self.frames.labels() == tuple(sorted(set(self.reserved.values())))

    @invariant()
    def free_is_what_is_left(self) -> None:
        free = {n // PAGE for s in self.frames.free(self.zone, SIZE) for n in range(s.start, s.end, PAGE)}
        assert free == set(range(2, 40)) - set(self.reserved) - self.secure


PageByPage.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestPageByPage = PageByPage.TestCase


def test_the_lowcore_is_never_given() -> None:
    assert Frames().allocating("web", PAGE, PAGE, 0, ZoneTable(), SIZE).span.start == LOWCORE


@pytest.mark.parametrize(
    ("length", "alignment"), [(0, PAGE), (1, PAGE), (PAGE, 1), (PAGE, 0), (-PAGE, PAGE), (PAGE, -PAGE)]
)
def test_only_whole_pages_are_given(length: int, alignment: int) -> None:
    with pytest.raises(Malformed, match="multiples of 4096"):
        Frames().allocating("web", length, alignment, 0, ZoneTable(), SIZE)


def test_more_than_there_is_tells_the_missing_bytes_however_much_it_is() -> None:
    with pytest.raises(Conflict, match=f": {(1 << 52) - SIZE + LOWCORE} bytes are missing"):
        Frames().allocating("web", 1 << 52, PAGE, 0, ZoneTable(), SIZE)
    with pytest.raises(Conflict, match=f": {PAGE} bytes are missing"):
        Frames().allocating("web", PAGE, PAGE, 1 << 52, ZoneTable(), SIZE)


def test_ten_thousand_allocations_with_gaps_between_them_stay_cheap() -> None:
    frames, size = Frames(), 1 << 40
    began = time.perf_counter()
    for turn in range(10_000):
        allocation = frames.allocating(f"guest {turn}", 3 * PAGE, 4 * PAGE, 0, ZoneTable(), size)
        frames.apply(allocation.change)
    assert time.perf_counter() - began < 15  # looking from the bottom each time takes minutes


def test_frames_made_of_their_intervals_are_the_same() -> None:
    frames = Frames([Interval(LOWCORE, LOWCORE + PAGE, Label("web"))])
    assert frames.allocating("db", PAGE, PAGE, 0, ZoneTable(), SIZE).span == Span(LOWCORE + PAGE, PAGE)
    assert frames.freeing("web", ZoneTable()).freed == PAGE
    assert frames.freeing("nobody", ZoneTable()).freed == 0
