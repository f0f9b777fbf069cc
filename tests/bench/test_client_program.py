"""The C client on SoftHSM: it compiles, it measures, and a call that fails ends it with the call's name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from bench.clients import compile_client, crowd, prepare
from bench.operations import OPERATIONS
from bench.peers import Peer, direct

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client."""
    return compile_client(tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def peer(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    """SoftHSM with its keys made."""
    peer = direct(tmp_path_factory.mktemp("direct"))
    for label in peer.tokens:
        prepare(binary, peer, label, 8)
    return peer


def test_every_operation_is_measured(binary: Path, peer: Peer) -> None:
    with crowd(binary, peer) as one:
        for operation in OPERATIONS:
            sample = one.measure(operation, 0.01)
            assert sample.count >= 3, operation
            assert 0 < sample.p50 <= sample.p99, operation
            assert sample.per_second > 0, operation


def test_processes_and_threads_measure_together(binary: Path, peer: Peer) -> None:
    with crowd(binary, peer, clients=2, threads=4) as several:
        assert several.measure("hmac-1k", 0.05).count >= 2 * 4 * 3


def test_what_a_client_does_not_know_ends_it(binary: Path, peer: Peer) -> None:
    with crowd(binary, peer) as one, pytest.raises(SystemExit, match="no operation `C_Nothing`"):
        one.measure("C_Nothing", 0.01)


def test_a_wrong_pin_is_told_with_its_call(binary: Path, peer: Peer) -> None:
    # CKR_PIN_INCORRECT
    with (
        pytest.raises(SystemExit, match="C_Login: CK_RV 0x000000a0"),
        crowd(binary, replace(peer, pin="4321")),
    ):
        pass


def test_a_token_that_is_not_there_is_told(binary: Path, peer: Peer) -> None:
    with pytest.raises(SystemExit, match="no token `nothing`"):
        prepare(binary, peer, "nothing", 8)
