"""Worlds for the tests of storage as a whole."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyvisor_firmware.config import Limits, StorageLimits
from keyvisor_hsm.master_keys import OperatorToken

from .world import FEW, SMALL, World


@pytest.fixture
def new_world(operator_token: OperatorToken) -> Iterator[Callable[..., World]]:
    """Makes worlds, each with a database of its own."""
    with tempfile.TemporaryDirectory(prefix="kv-") as name:
        made: list[World] = []

        def make(limits: Limits = FEW, storage: StorageLimits = SMALL) -> World:
            made.append(World(Path(name) / f"{len(made)}.db", operator_token, limits, storage))
            return made[-1]

        yield make
        for world in made:
            world.database.close()


@pytest.fixture
def world(new_world: Callable[..., World]) -> World:
    """A world whose firmware is not initialised."""
    return new_world()
