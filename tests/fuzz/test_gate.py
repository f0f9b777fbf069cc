"""The whole gate under arbitrary conversations, its module replaced by a recorder."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .targets import gate


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=1200))
def test_gate(data: bytes) -> None:
    gate(data)
