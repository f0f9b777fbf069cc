"""What is said of blocks that were refused."""

from __future__ import annotations

import pytest

from keyvisor_guest.cli.image_refusals import Refusals
from keyvisor_guest.containers.errors import BlockRefused


def test_each_is_told_once_and_not_without_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    tell = Refusals()
    for _ in range(3):
        tell(BlockRefused(7, 1))
    assert (
        capsys.readouterr().err == "error: block 7 of layer 1 is not as it was built: pull the image again\n"
    )
    for number in range(1000):
        tell(BlockRefused(number, 0))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 100
    assert lines[-1] == "error: 100 blocks were refused; what follows is not told"
