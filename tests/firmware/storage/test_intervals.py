"""Interval maps against the dullest thing that does the same: one dictionary entry for each address."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keyvisor_firmware.storage.intervals import Change, GroupedMap, Interval, IntervalMap
from keyvisor_firmware.storage.pages import Span

SIZE = 48


@dataclass(frozen=True, slots=True)
class Tag:
    """A value with a part that stays and one that moves, or none that does."""

    name: str
    place: int | None

    def ahead(self, distance: int) -> Tag:
        return Tag(self.name, None if self.place is None else self.place + distance)


class Tags(GroupedMap[Tag]):
    @staticmethod
    def group_of(value: Tag) -> str:
        return value.name


TAGS = st.builds(Tag, st.sampled_from("ab"), st.none() | st.integers(0, 6))


@st.composite
def spans(draw: st.DrawFn) -> Span:
    start = draw(st.integers(0, SIZE - 1))
    return Span(start, draw(st.integers(1, SIZE - start)))


@st.composite
def pieces(draw: st.DrawFn) -> list[Interval[Tag]]:
    borders = sorted(draw(st.sets(st.integers(0, SIZE), max_size=12)))
    offered = [Interval(start, end, draw(TAGS)) for start, end in itertools.pairwise(borders)]
    return draw(st.permutations([piece for piece in offered if draw(st.booleans())]))


class AsADictionary(RuleBasedStateMachine):
    """Set, clear, undo and do again what random pieces say; the dictionary has one value for each address."""

    def __init__(self) -> None:
        super().__init__()
        self.map = Tags()
        self.shadow: dict[int, Tag] = {}
        self.done: list[Change[Tag]] = []

    def make(self, change: Change[Tag]) -> None:
        self.map.apply(change)
        self.done.append(change)

    @rule(offered=pieces())
    def set_pieces(self, offered: list[Interval[Tag]]) -> None:
        before = list(self.map)
        change = self.map.setting(offered)
        assert list(self.map) == before
        self.make(change)
        for piece in offered:
            for address in range(piece.start, piece.end):
                self.shadow[address] = piece.value.ahead(address - piece.start)

    @rule(cleared=st.lists(spans(), max_size=6))
    def clear(self, cleared: list[Span]) -> None:
        self.make(self.map.clearing(cleared))
        for span in cleared:
            for address in range(span.start, span.end):
                self.shadow.pop(address, None)

    @rule(offered=pieces(), cleared=st.lists(spans(), max_size=6))
    def undo(self, offered: list[Interval[Tag]], cleared: list[Span]) -> None:
        before = list(self.map)
        one = self.map.setting(offered)
        self.map.apply(one)
        other = self.map.clearing(cleared)
        self.map.apply(other)
        self.map.apply(other.inverse())
        self.map.apply(one.inverse())
        assert list(self.map) == before

    @rule(offered=pieces())
    def refuse_a_change_made_for_another_map(self, offered: list[Interval[Tag]]) -> None:
        before = list(self.map)
        change = self.map.setting(offered)
        if not change.added:
            return
        self.map.apply(change)
        after = list(self.map)
        with pytest.raises(ValueError, match="is to be"):
            self.map.apply(change)
        assert list(self.map) == after
        self.map.apply(change.inverse())
        assert list(self.map) == before

    @rule(span=spans())
    def look(self, span: Span) -> None:
        seen: dict[int, Tag] = {}
        for piece in self.map.clipped(span.start, span.end):
            assert span.start <= piece.start < piece.end <= span.end
            for address in range(piece.start, piece.end):
                seen[address] = piece.value.ahead(address - piece.start)
        assert seen == {a: tag for a, tag in self.shadow.items() if span.start <= a < span.end}
        whole = list(self.map.overlapping(span.start, span.end))
        assert [piece.within(span.start, span.end) for piece in whole] == list(
            self.map.clipped(span.start, span.end)
        )
        assert self.map.last_overlapping(span.start, span.end) == (whole[-1] if whole else None)

    @invariant()
    def every_address_has_its_value(self) -> None:
        for address in range(-1, SIZE + 1):
            found = self.map.at(address)
            value = found.value.ahead(address - found.start) if found else None
            assert value == self.shadow.get(address)

    @invariant()
    def intervals_are_ascending_and_joined_where_they_can_be(self) -> None:
        intervals = list(self.map)
        assert len(intervals) == len(self.map)
        for one, other in itertools.pairwise(intervals):
            assert one.end <= other.start
            assert not one.is_continued_by(other)

    @invariant()
    def groups_have_all_and_nothing_else(self) -> None:
        for name in "ab":
            assert list(self.map.in_group(name)) == [i for i in self.map if i.value.name == name]
        assert set(self.map.groups()) == {interval.value.name for interval in self.map}


AsADictionary.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestAsADictionary = AsADictionary.TestCase


@given(pieces())
def test_a_map_is_the_same_made_of_its_own_intervals(offered: list[Interval[Tag]]) -> None:
    grown = Tags()
    grown.apply(grown.setting(offered))
    assert list(Tags(reversed(list(grown)))) == list(grown)


@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 4), TAGS), min_size=80, max_size=300),
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 4)), min_size=40, max_size=200),
)
@settings(max_examples=40, deadline=None)
def test_many_pieces_at_once_do_what_each_on_its_own_does(
    offered: list[tuple[int, int, Tag]], cleared: list[tuple[int, int]]
) -> None:
    disjoint = [
        Interval(a * 5, a * 5 + length, tag) for a, length, tag in {o[0]: o for o in offered}.values()
    ]
    holes = [Span(a * 5 - 1, length) for a, length in cleared if a]
    at_once, one_by_one = Tags(), Tags()
    for piece in disjoint:
        one_by_one.apply(one_by_one.setting([piece]))
    setting = at_once.setting(disjoint)
    at_once.apply(setting)
    assert list(at_once) == list(one_by_one)
    for hole in holes:
        one_by_one.apply(one_by_one.clearing([hole]))
    clearing = at_once.clearing(holes)
    at_once.apply(clearing)
    assert list(at_once) == list(one_by_one)
    at_once.apply(clearing.inverse())
    at_once.apply(setting.inverse())
    assert not list(at_once)
    assert not at_once.groups()


@given(pieces())
def test_a_change_tells_only_what_differs(offered: list[Interval[Tag]]) -> None:
    grown = Tags()
    grown.apply(grown.setting(offered))
    assert grown.setting(offered) == Change()
    assert grown.clearing([Span(SIZE, 4)]) == Change()


def test_pieces_that_continue_their_neighbours_become_one_interval() -> None:
    grown = Tags([Interval(0, 4, Tag("a", 0)), Interval(8, 12, Tag("a", 8))])
    change = grown.setting([Interval(4, 8, Tag("a", 4))])
    assert change.added == (Interval(0, 12, Tag("a", 0)),)
    assert grown.setting([Interval(4, 8, Tag("a", 5))]).added == (Interval(4, 8, Tag("a", 5)),)


def test_a_hole_splits_and_the_rest_keeps_its_values() -> None:
    grown = Tags([Interval(0, 12, Tag("a", 100))])
    grown.apply(grown.clearing([Span(4, 2)]))
    assert list(grown) == [Interval(0, 4, Tag("a", 100)), Interval(6, 12, Tag("a", 106))]


@pytest.mark.parametrize(
    ("intervals", "what"),
    [
        ([Interval(0, 4, Tag("a", 0)), Interval(3, 5, Tag("a", 3))], "overlap"),
        ([Interval(2, 2, Tag("a", 0))], "empty"),
        ([Interval(3, 2, Tag("a", 0))], "empty"),
        ([Interval(-1, 2, Tag("a", 0))], "below zero"),
    ],
)
def test_what_overlaps_is_empty_or_below_zero_is_no_map_and_no_piece(
    intervals: list[Interval[Tag]], what: str
) -> None:
    with pytest.raises(ValueError, match=what):
        Tags(intervals)
    with pytest.raises(ValueError, match=what):
        Tags().setting(intervals)
    grown = Tags()
    with pytest.raises(ValueError, match=what):
        grown.apply(Change(added=tuple(intervals)))
    assert not list(grown)


def test_nothing_is_added_over_what_stays_and_nothing_removed_that_differs() -> None:
    grown = Tags([Interval(0, 4, Tag("a", 0))])
    for change in (
        Change(added=(Interval(3, 5, Tag("a", 0)),)),
        Change(removed=(Interval(0, 4, Tag("a", 1)),)),
        Change(removed=(Interval(0, 3, Tag("a", 0)),)),
        Change(removed=(Interval(0, 4, Tag("a", 0)), Interval(0, 4, Tag("a", 0)))),
    ):
        with pytest.raises(ValueError, match="is to be"):
            grown.apply(change)
    assert list(grown) == [Interval(0, 4, Tag("a", 0))]


def test_a_hundred_thousand_intervals_make_a_change_hardly_dearer() -> None:
    large = IntervalMap(Interval(a * 8, a * 8 + 4, Tag("a", None)) for a in range(100_000))
    began = time.perf_counter()
    for turn in range(200):
        change = large.setting([Interval(turn * 3000, turn * 3000 + 1, Tag("b", None))])
        large.apply(change)
        large.apply(change.inverse())
    assert time.perf_counter() - began < 2  # going through all of them each time takes over ten seconds
    assert len(large) == 100_000
