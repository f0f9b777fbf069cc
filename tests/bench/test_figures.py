"""Arithmetic: by hand, and its laws."""

from __future__ import annotations

import pytest
from bench.figures import Spread, geometric_mean, ratios, spread
from hypothesis import given
from hypothesis import strategies as st

POSITIVE = st.lists(st.floats(0.01, 1e6), min_size=1, max_size=20)


def test_a_spread_is_the_median_between_least_and_most() -> None:
    assert spread([3.0, 1.0, 2.0, 10.0, 0.5]) == Spread(2.0, 0.5, 10.0)


def test_ratios_are_taken_round_by_round() -> None:
    # The machine was slow for both in the second round: the ratio does not see it.
    assert ratios([100.0, 10.0, 120.0], [50.0, 5.0, 40.0]) == Spread(2.0, 2.0, 3.0)


def test_rounds_without_a_partner_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0, 2.0], [1.0])


def test_no_values_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_the_geometric_mean_of_a_ratio_and_its_inverse_is_one() -> None:
    assert geometric_mean([4.0, 0.25]) == pytest.approx(1.0)


@pytest.mark.parametrize("values", [[], [1.0, 0.0], [1.0, -1.0]])
def test_a_geometric_mean_wants_positive_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="geometric mean"):
        geometric_mean(values)


@given(POSITIVE)
def test_the_mean_of_the_inverses_is_the_inverse_of_the_mean(values: list[float]) -> None:
    assert geometric_mean([1 / value for value in values]) == pytest.approx(1 / geometric_mean(values))
