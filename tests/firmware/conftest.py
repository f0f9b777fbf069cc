"""One operator token for all tests (a real one), and a machine for each."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keyvisor_firmware.config import Config
from keyvisor_firmware.errors import ConfigInvalid
from keyvisor_hsm.master_keys import OperatorToken

from .machine import Machine


@pytest.fixture(scope="session")
def operator_token() -> Iterator[OperatorToken]:
    """An operator token on SoftHSM."""
    try:
        named = os.environ.get("KEYVISOR_TEST_MODULE")
        module = Path(named) if named else Config().module_path()
    except ConfigInvalid as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="kv-") as name:
        token = OperatorToken.open(Path(name) / "operator", module)
        yield token
        token.close()


@pytest.fixture
def new_machine(operator_token: OperatorToken) -> Iterator[Callable[..., Machine]]:
    """Makes machines, each with a database of its own."""
    with tempfile.TemporaryDirectory(prefix="kv-") as name:
        made: list[Machine] = []

        def make(config: Config | None = None) -> Machine:
            made.append(
                Machine(
                    Path(name) / f"{len(made)}.db", operator_token, config if config is not None else Config()
                )
            )
            return made[-1]

        yield make
        for machine in made:
            machine.database.close()


@pytest.fixture
def machine(new_machine: Callable[..., Machine]) -> Machine:
    """A machine with the shipped cards."""
    return new_machine()
