"""The module dies under a guest: that guest notices for a moment, its keys and its association stay, nobody else notices."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keyvisor_firmware.broker import gatekeeper as module
from keyvisor_firmware.broker.hot.loop import HotLoop
from keyvisor_hsm.cryptoki import CKA, CKR
from keyvisor_hsm.master_keys import OperatorToken

from .conftest import CRYPTO, OTHER_SECRET, SPARE, Guest, Machine, children, slot_of, wait_for
from .crashing import crashing_module
from .peer import Peer

ROOT = Path(__file__).resolve().parents[3]
SLOT = slot_of(CRYPTO)
CRASHES = 4
BACK_WITHIN = (
    1.0  # seconds from the crash to the first answer of the next gate, on a machine with nothing else to do
)
SLOW_MACHINE = 5  # how much more a loaded machine may take before the test fails


@pytest.fixture(scope="session")
def library(softhsm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module that crashes on demand."""
    return crashing_module(softhsm, tmp_path_factory.mktemp("crashing"))


@pytest.fixture
def crashing(library: Path, operator_token: OperatorToken, path: HotLoop | None) -> Iterator[Machine]:
    """A machine whose module is that one."""
    with tempfile.TemporaryDirectory(prefix="kv-") as home:
        machine = Machine(Path(home), library, operator_token, path is not None)
        yield machine
        for guest in machine.guests:
            guest.leave()


def by_its_module(guest: Guest, peer: Peer, session: int) -> None:
    """The guest's own application makes the module crash; it sees its connection end."""
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        peer.call("C_SeedRandom", session, b"crash")


def by_signal_11(guest: Guest, peer: Peer, _session: int) -> None:
    """The gate gets the signal from outside."""
    os.kill(guest.running_gate(), signal.SIGSEGV)
    assert peer.ended()


Crash = Callable[[Guest, Peer, int], None]


@contextlib.contextmanager
def signing(guest: Guest, slot: int) -> Iterator[Callable[[], dict[str, Any]]]:
    """Another process signs in the guest all the while; what is handed out ends it and tells how that went."""
    words = [sys.executable, "-m", "tests.firmware.broker.signing", str(guest.keeper.door), str(slot)]
    with subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "signing\n"

        def end() -> dict[str, Any]:
            told, _ = process.communicate(timeout=60)
            found: dict[str, Any] = json.loads(told)
            return found

        yield end


def served_again(guest: Guest) -> Peer:
    """A new connection whose first call was answered; the time until then is that of the gate's return."""
    peer = guest.connect()
    peer.call("C_GetTokenInfo", SLOT)
    return peer


@pytest.mark.usefixtures("path")  # which the machines are asked for by name below
@pytest.mark.parametrize("crash", [by_its_module, by_signal_11])
def test_a_crash_costs_its_guest_a_moment_and_others_nothing(
    crash: Crash, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    machine: Machine = request.getfixturevalue("crashing" if crash is by_its_module else "machine")
    one, other = machine.guest("one"), machine.guest("other")
    one.associate()
    other.associate(SPARE, OTHER_SECRET)
    peer = one.connect()
    session = peer.session(SLOT, login=True)
    peer.ec_key_pair(session, token=True, label=b"kept")
    took = []
    with signing(other, slot_of(SPARE)) as end:
        bystander = other.running_gate()
        for _ in range(CRASHES):
            before, neighbour = one.running_gate(), one.connect()
            crash(one, peer, session)
            crashed = time.monotonic()
            peer = served_again(one)
            took.append(time.monotonic() - crashed)
            assert one.running_gate() != before
            assert neighbour.ended()
            session = peer.session(SLOT, login=True)  # only an associated HSM takes a login
            (key,) = peer.find(session, (CKA.LABEL, b"kept"), (CKA.SIGN, True))
            assert len(peer.sign(session, key)) == 64
        told = end()
    with capsys.disabled():
        print(
            f"\n  the gate was back after {', '.join(f'{t:.3f}' for t in took)} s; {told['signed']} signatures beside"
        )
    assert told["errors"] == []
    assert told["signed"] > CRASHES
    assert other.running_gate() == bystander
    assert max(took) < BACK_WITHIN * SLOW_MACHINE
    assert min(took) < BACK_WITHIN


def test_the_crashing_module_is_softhsm_otherwise(crashing: Machine) -> None:
    """The broken twin: without the word that makes it crash it does what it always did."""
    guest = crashing.guest()
    guest.associate()
    gate, peer = guest.gate(), guest.connect()
    session = peer.session(SLOT, login=True)
    for seed in (b"crasher", b"cras", b"CRASH"):
        assert peer.rv("C_SeedRandom", session, seed) == CKR.OK
    assert guest.running_gate() == gate


def test_a_crash_at_a_bound_hsm_leaves_it_bound(crashing: Machine) -> None:
    """Without an association there is the scratch token: it is gone, and made anew."""
    guest = crashing.guest()
    guest.keeper.bind(CRYPTO)
    peer = guest.connect()
    by_its_module(guest, peer, peer.session(SLOT))
    peer = served_again(guest)
    assert len(peer.call("C_GenerateRandom", peer.session(SLOT), 8)) == 8


def test_an_association_is_made_right_after_a_crash(crashing: Machine) -> None:
    """It must not fail because of it: that would last until the HSM is unbound."""
    guest = crashing.guest()
    guest.keeper.bind(CRYPTO)
    peer = guest.connect()
    by_its_module(guest, peer, peer.session(SLOT))
    guest.keeper.associate(CRYPTO, guest.keys())
    peer = guest.connect()
    peer.aes_key(peer.session(SLOT, login=True))


def test_a_guest_that_crashes_its_gate_again_and_again_is_made_to_wait(
    crashing: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Bounded: at most so many starts in a row, then a pause, then it is served as before."""
    monkeypatch.setattr(module, "_QUICK", 3600.0)  # every crash counts, however slow this machine is
    monkeypatch.setattr(module, "_PAUSE", 0.5)
    guest = crashing.guest()
    guest.associate()
    began, said = time.monotonic(), ""
    crashes = 0
    while "its door waits 0.5 s" not in said:
        peer = served_again(guest)
        by_its_module(guest, peer, peer.session(SLOT))
        crashes += 1
        said += capfd.readouterr().err
        assert crashes <= module._PATIENCE + 3, said
    served_again(guest)
    assert time.monotonic() - began > 0.5
    assert crashes > module._PATIENCE


def test_a_dead_gate_leaves_no_core_with_keys_in_it(machine: Machine) -> None:
    """The memory of a gate holds keys and PINs (architecture.md, invariant 4)."""
    guest = machine.guest()
    guest.associate()
    process = Path(f"/proc/{guest.running_gate()}")
    (limit,) = [line for line in (process / "limits").read_text().splitlines() if "core file" in line]
    assert limit.split()[4:6] == ["0", "0"]
    assert int((process / "coredump_filter").read_text(), 16) == 0


def test_nothing_of_a_crashed_gate_is_left(crashing: Machine) -> None:
    guest = crashing.guest()
    guest.keeper.bind(CRYPTO)
    peer = guest.connect()
    gate = guest.running_gate()
    by_its_module(guest, peer, peer.session(SLOT))
    wait_for(lambda: gate not in children(), "the daemon noticed")
    wait_for(lambda: not (guest.keeper.door.parent / "scratch").exists(), "the scratch token is gone")
