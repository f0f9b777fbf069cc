"""The filter's own cost is measured of calls that pass."""

from __future__ import annotations

from bench.filter_cost import filter_cost


def test_the_filter_takes_less_than_the_whole_way() -> None:
    costs = filter_cost(loops=50)
    assert "C_GetSessionInfo" in costs
    for ways in costs.values():
        assert 0 < ways["filter"] < ways["request to reply"]
