"""Regions are sets of HSMs: held against sets of all HSMs of a small domain."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.policy.small_domain import EVERY, ONE, SERIAL, TWO, descriptions, patterns

from keyvisor_policy import Hsm, Interval, Pattern
from keyvisor_policy.matching import usable
from keyvisor_policy.never import Description, Is
from keyvisor_policy.region_index import Index
from keyvisor_policy.regions import Box, intersect, left_of, minus, of_description, of_pattern

boxes = st.one_of(
    patterns.map(of_pattern), descriptions.map(lambda hsm: next(iter(of_description(hsm)), None))
).filter(lambda box: box is not None)


def members(*regions: Box | None) -> set[Hsm]:
    return {hsm for region in regions if region is not None for hsm in EVERY if hsm in region}


@given(patterns)
def test_a_rules_region_is_what_the_rule_can_use(pattern: Pattern) -> None:
    assert members(of_pattern(pattern)) == {hsm for hsm in EVERY if usable(hsm, pattern)}


@given(descriptions)
def test_a_descriptions_region_is_what_it_describes_and_a_rule_could_use(described: Description) -> None:
    could = {hsm for hsm in EVERY if hsm.mode == "accel" or hsm.mkvp is not None}
    assert members(*of_description(described)) == {hsm for hsm in could if described.describes(hsm)}


@given(boxes)
def test_a_witness_is_in_its_region(box: Box) -> None:
    assert box.witness() in box
    assert box.witness() == box.witness()


@given(boxes, boxes)
def test_what_is_common_is_in_both(one: Box, other: Box) -> None:
    common = intersect(one, other)
    assert members(common) == members(one) & members(other)
    assert common is None or common.witness() in one
    assert common is None or common.witness() in other


@given(boxes, boxes)
def test_minus_leaves_disjoint_boxes_of_what_is_in_one_only(one: Box, other: Box) -> None:
    pieces = minus(one, other)
    assert members(*pieces) == members(one) - members(other)
    assert all(intersect(*pair) is None for pair in itertools.combinations(pieces, 2))
    assert all(piece.witness() in one and piece.witness() not in other for piece in pieces)


def test_one_piece_for_each_field_in_which_the_other_is_narrower() -> None:
    narrow = Pattern(
        "ep11", ONE, SERIAL, Interval(6, 6), Interval((1, 0), (1, 0)), Interval(1, 1), frozenset("xy")
    )
    one, other = of_pattern(Pattern("ep11")), of_pattern(narrow)
    assert one is not None
    assert other is not None
    pieces = minus(one, other)
    assert len(pieces) == 7
    assert members(*pieces) == members(one) - members(other)
    assert all(intersect(*pair) is None for pair in itertools.combinations(pieces, 2))
    assert minus(other, one) == ()


@given(boxes, st.lists(boxes, max_size=6))
def test_what_is_left_behind_many_is_something_exactly_where_something_is(
    box: Box, others: list[Box]
) -> None:
    left = left_of(box, others)
    assert (left.box is None) == (members(box) <= members(*others))
    if left.box is not None:
        assert members(left.box) <= members(box) - members(*others)
        assert left.box.witness() in box
        assert not any(left.box.witness() in other for other in others)


@given(boxes, st.lists(boxes, max_size=6))
def test_an_index_finds_in_order_what_has_something_in_common(box: Box, others: list[Box]) -> None:
    index = Index([(other, number) for number, other in enumerate(others)])
    found = [number for _, number in index.meeting(box)]
    common = [number for number, other in enumerate(others) if members(box) & members(other)]
    assert found == [number for number in common if others.index(others[number]) == number]


ANY = of_pattern(Pattern("ep11"))


@pytest.mark.parametrize(
    ("wanted", "without"),
    [
        (lambda hsm: hsm.mkvp not in (ONE, None), [Pattern("ep11", mkvp=ONE)]),
        (lambda hsm: hsm.serial != SERIAL, [Pattern("ep11", serial=SERIAL)]),
        (lambda hsm: hsm.generation == 8, [Pattern("ep11", generation=Interval(None, 7))]),
        (lambda hsm: hsm.firmware == (8, 1), [Pattern("ep11", firmware=Interval(None, (8, 0)))]),
        (lambda hsm: hsm.api == 5, [Pattern("ep11", api=Interval(None, 4))]),
        (lambda hsm: hsm.compliance == frozenset(), [Pattern("ep11", compliance=frozenset({"fips"}))]),
        (
            lambda hsm: hsm.mkvp not in (ONE, TWO, None) and hsm.api == 1,
            [Pattern("ep11", mkvp=ONE), Pattern("ep11", mkvp=TWO), Pattern("ep11", api=Interval(None, 0))],
        ),
    ],
)
def test_what_is_left_is_just_beyond_the_bounds(
    wanted: Callable[[Hsm], bool], without: list[Pattern]
) -> None:
    assert ANY is not None
    left = left_of(ANY, [box for box in map(of_pattern, without) if box is not None])
    assert left.box is not None
    assert wanted(left.box.witness())


@pytest.mark.parametrize(
    ("parts", "gap"),
    [
        ([Interval(None, 5), Interval(6, None)], None),
        ([Interval(None, 5), Interval(7, None)], 6),
        ([Interval(None, 7), Interval(5, None)], None),
    ],
)
def test_intervals_that_touch_cover_together_and_those_with_a_gap_do_not(
    parts: list[Interval[int]], gap: int | None
) -> None:
    assert ANY is not None
    for field in ("api", "generation"):
        covering = [of_pattern(Pattern("ep11", **{field: part})) for part in parts]  # type: ignore[arg-type]
        left = left_of(ANY, [box for box in covering if box is not None]).box
        assert (None if left is None else getattr(left.witness(), field)) == gap


def test_what_nothing_can_be_has_no_region() -> None:
    assert of_pattern(Pattern("ep11", generation=Interval(9, None))) is None
    assert of_description(Description(generation=Is(Interval(4, None), but=True))) == ()
    assert of_description(Description(present=frozenset("x"), absent=frozenset("x"))) == ()
    assert len(of_description(Description())) == 2


def test_thousands_of_constants_are_thousands_of_cells() -> None:
    keys = [number.to_bytes(16, "big") for number in range(1, 2001)]
    pinned = [box for key in keys if (box := of_pattern(Pattern("ep11", mkvp=key))) is not None]
    assert ANY is not None
    left = left_of(ANY, pinned)
    assert left.cells == 2001
    assert left.box is not None
    assert left.box.witness().mkvp == (2001).to_bytes(16, "big")
