"""The filter under arbitrary orders of states and calls, beside a model."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .targets import filter_


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=1200))
def test_filter(data: bytes) -> None:
    filter_(data)
