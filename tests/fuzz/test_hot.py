"""The whole gate again, with the compiled hot loop in front."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyvisor_firmware.broker.hot.loop import load

from .targets import hot


@pytest.mark.skipif(load() is None, reason="the compiled hot loop is not built")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=1200))
def test_hot(data: bytes) -> None:
    hot(data)
