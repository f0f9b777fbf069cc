"""Runs of blocks against sets of block numbers."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.runs import are_disjoint, blocks_in, check_runs, joined

ANY_RUNS = st.lists(st.tuples(st.integers(0, 40), st.integers(-1, 9)), max_size=6).map(tuple)


def runs_of(numbers):
    return joined((one, 1) for one in numbers)


def blocks_of(runs):
    return {number for first, count in runs for number in range(first, first + count)}


@given(ANY_RUNS, st.integers(0, 50))
def test_what_is_checked_is_sorted_disjoint_and_inside(runs, volume):
    whole = all(count > 0 for _, count in runs)
    good = whole and all(sum(one) <= other[0] for one, other in pairwise(runs))
    good = good and all(sum(one) <= volume for one in runs)
    if good:
        check_runs(runs, volume)
        assert blocks_in(runs) == len(blocks_of(runs))
    else:
        with pytest.raises(ValueError, match="the "):
            check_runs(runs, volume)


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_disjoint_means_no_block_in_both(one, other):
    assert are_disjoint(runs_of(one), runs_of(other)) == (not one & other)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=8))
def test_joined_runs_are_the_same_blocks_and_as_few_as_can_be(runs):
    result = joined(runs)
    check_runs(result, 50)
    assert blocks_of(result) == blocks_of(runs)
    assert all(sum(one) < other[0] for one, other in pairwise(result))
