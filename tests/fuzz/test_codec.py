"""The codec under arbitrary bytes: refused in two ways only, and never past a limit."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .targets import codec


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=1200))
def test_codec(data: bytes) -> None:
    codec(data)
