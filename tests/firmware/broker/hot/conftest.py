"""The compiled hot loop; where it was not built, what is about it alone is skipped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyvisor_firmware.broker.hot.loop import HotLoop, HotLoopMissing
from keyvisor_firmware.broker.limits import Limits
from keyvisor_firmware.broker.mechanism_parameters import Encoding
from keyvisor_firmware.broker.state_page import HsmState

from ..in_process import Bench, recording
from .pair import Pair
from .served import Made, Served


@pytest.fixture(scope="session")
def loop() -> HotLoop:
    """The library."""
    try:
        return HotLoop()
    except HotLoopMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def pairs(loop: HotLoop, tmp_path: Path) -> Callable[..., Pair]:
    """Makes pairs."""
    return lambda **given: Pair(loop, tmp_path, **given)


@pytest.fixture(params=Encoding, ids=lambda encoding: encoding.name)
def pair(request: pytest.FixtureRequest, pairs: Callable[..., Pair]) -> Pair:
    """Both paths, the HSM associated; once for each way in which clients write mechanisms."""
    pair = pairs(encoding=request.param)
    pair.grant(HsmState.ASSOCIATED)
    return pair


@pytest.fixture
def made(path: HotLoop | None, tmp_path: Path) -> Iterator[Made]:
    """Makes them; at the end of the test all are gone."""
    with contextlib.ExitStack() as stack:

        def make(limits: Limits | None = None) -> Served:
            bench = Bench(recording(tmp_path), compiled=path)
            bench.grant(HsmState.ASSOCIATED)
            return stack.enter_context(Served(bench, limits or Limits(), path))

        yield make


@pytest.fixture
def served(made: Made) -> Served:
    """One that has begun."""
    served = made()
    served.begin()
    return served
