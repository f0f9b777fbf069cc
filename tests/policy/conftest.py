"""HSMs that tests of policies start from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings

from keyvisor_policy import Hsm

# How long an example takes is the machine's affair; what it does is the test's.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

MKVP = bytes.fromhex("db3c3b3c3f097dd55ec7eb0e7fdbcb93")


@pytest.fixture
def hsm() -> Callable[..., Hsm]:
    """Makes an HSM like that of the design's example, with the given fields changed."""
    usual = Hsm(
        apqn="03.0011",
        mode="ep11",
        generation=8,
        serial="93AADFK719460083",
        mkvp=MKVP,
        firmware=(8, 0),
        api=4,
        compliance=frozenset({"fips2021", "bsi2021"}),
    )

    def make(apqn: str = "03.0011", **changes: Any) -> Hsm:
        return dataclasses.replace(usual, apqn=apqn, **changes)

    return make
