"""Masks against looking at each value, and that a mask is found however many values there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hypothesis import given
from hypothesis import strategies as st

from keyvisor_policy import Interval
from keyvisor_policy.bit_masks import STRIDE, Intervals, NameSets, Steps, Tally, Values, by_value, members

ends = st.none() | st.integers(0, 9)
intervals = st.builds(Interval, ends, ends).filter(
    lambda one: one.lowest is None or one.highest is None or one.lowest <= one.highest
)
names = st.frozensets(st.sampled_from("abcdefgh"))


def those(numbers: Iterable[int], holds: Callable[[int], bool]) -> list[int]:
    return [number for number in numbers if holds(number)]


@given(st.lists(st.none() | intervals, max_size=60), st.integers(-1, 10), st.none() | intervals)
def test_intervals_are_found_by_a_value_and_by_an_interval(
    listed: list[Interval[int] | None], value: int, inner: Interval[int] | None
) -> None:
    index = Intervals(listed)
    every = [one or Interval() for one in listed]
    numbers = range(len(every))
    assert list(members(index.containing(value))) == those(numbers, lambda at: value in every[at])
    narrow = inner or Interval()
    assert list(members(index.covering(inner))) == those(numbers, lambda at: every[at].covers(narrow))


@given(st.lists(st.integers(0, 9), max_size=60), intervals)
def test_values_are_found_by_an_interval(listed: list[int], interval: Interval[int]) -> None:
    assert list(members(Values(listed).inside(interval))) == those(
        range(len(listed)), lambda at: listed[at] in interval
    )


@given(st.lists(names, max_size=60), names)
def test_sets_of_names_are_found_by_one_that_they_are_inside_of(
    listed: list[frozenset[str]], outer: frozenset[str]
) -> None:
    assert list(members(NameSets(listed).inside(outer))) == those(
        range(len(listed)), lambda at: listed[at] <= outer
    )


def test_both_ways_to_look_at_names_are_taken() -> None:
    many_sets = [
        frozenset(name for at, name in enumerate("abcd") if number >> at & 1) for number in range(16)
    ]
    many_names = [frozenset({"all", f"own-{number}"}) for number in range(100)]
    for listed, outer in ((many_sets, {"a", "b"}), (many_names, {"all", "own-7", "own-8"})):
        assert list(members(NameSets(listed).inside(outer))) == those(
            range(len(listed)),
            lambda at: listed[at] <= outer,  # noqa: B023
        )


def test_every_step_is_found_between_the_masks_that_are_kept() -> None:
    flipped = [number % 7 for number in range(3 * STRIDE + 1)]
    steps, mask = Steps(0b1010, flipped), 0b1010
    for at, number in enumerate(flipped):
        assert steps.after(at) == mask
        mask ^= 1 << number
    assert steps.after(len(flipped)) == mask


@given(st.lists(st.integers(0, 255), max_size=20), st.integers(0, 22), st.integers(0, 255))
def test_a_tally_counts(masks: list[int], times: int, among: int) -> None:
    tally = Tally()
    for mask in masks:
        tally.add(mask)
    assert list(members(tally.counted(times, among))) == those(
        members(among), lambda at: sum(mask >> at & 1 for mask in masks) == times
    )


def test_values_have_a_mask_each() -> None:
    assert by_value("abca") == {"a": 0b1001, "b": 0b10, "c": 0b100}
