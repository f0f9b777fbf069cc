"""Both paths through the gate under the same arbitrary steps."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyvisor_firmware.broker.hot.loop import load

from .targets import paths


@pytest.mark.skipif(load() is None, reason="the compiled hot loop is not built")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=1200))
def test_paths(data: bytes) -> None:
    paths(data)
