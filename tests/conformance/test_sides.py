"""The plain side, for real: two fresh ones do the same, PINs can be set on them, and a broken one is noticed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conformance.broker import set_pins
from conformance.inputs import make_inputs
from conformance.outcomes import Outcome, Result, SuiteName, TestId, differences
from conformance.plain import plain_side
from conformance.sides import LABEL, PINS

from conformance import p11tool

pytestmark = pytest.mark.skipif(shutil.which("p11tool") is None, reason="p11tool is not installed")


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Short, because sockets will be in it; with the suites' files."""
    with tempfile.TemporaryDirectory(prefix="kv-") as name:
        make_inputs(Path(name))
        yield Path(name)


def _outcomes(directory: Path, name: str) -> dict[TestId, Outcome]:
    own = directory / name
    own.mkdir()
    with plain_side(own) as side:
        for file in directory.glob("*.*"):
            shutil.copy(file, side.directory)
        return dict(p11tool.commands(side))


def test_two_plain_sides_do_the_same(directory: Path) -> None:
    one, other = _outcomes(directory, "one"), _outcomes(directory, "other")
    assert differences(SuiteName("p11tool"), one, other) == []
    assert one[TestId("--list-all")].result is Result.PASSED
    assert "Type: Private key (EC/ECDSA-SECP256R1)" in one[TestId("--list-all")].detail


def test_pins_are_set_on_a_token_that_is_made_anew(directory: Path) -> None:
    own = directory / "pins"
    own.mkdir()
    with plain_side(own) as side:
        tool = ("pkcs11-tool", "--module", side.client, "--token-label", LABEL)
        changed = ("--login", "--pin", PINS.user, "--session-rw", "--change-pin", "--new-pin", "other")
        assert side.run(*tool, *changed).code == 0
        assert side.run(*tool, "--login", "--pin", PINS.user, "-O").code != 0
        set_pins(side)
        assert side.run(*tool, "--login", "--pin", PINS.user, "-O").code == 0


def test_a_token_that_is_not_there_takes_none(directory: Path) -> None:
    own = directory / "gone"
    own.mkdir()
    with plain_side(own) as side:
        gone = {**side.environment, "P11_KIT_SERVER_ADDRESS": "unix:path=/nowhere"}
        with pytest.raises(SystemExit, match="took no PINs"):
            set_pins(replace(side, environment=gone))
