"""Both paths through the gate under the same arbitrary steps."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyvisor_firmware.broker.hot.loop import load

from .targets import paths


@pytest.mark.skipif(load() is None, reason="the compiled hot loop is not built")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=1200))
def test_paths(data: bytes) -> None:
    paths(data)


@pytest.mark.skipif(load() is None, reason="the compiled hot loop is not built")
@pytest.mark.parametrize("seed", range(10))
def test_paths_at_length(seed: int) -> None:
    """Longer than what Hypothesis tries, and with less of it the same."""
    seeded = random.Random(seed)  # noqa: S311 - no secret: the same bytes each time
    for _ in range(15):
        paths(seeded.randbytes(1200))
