"""Section `memory`: what an idle guest and an idle connection take, how soon a cold gate answers, a thousand connections."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.clients import as_json, crowd, prepare
from bench.firmware import Firmware, apqn, configuration
from bench.idle_connections import connections
from bench.peers import KEYVISOR, Peer, keyvisor, server
from bench.processes import children, pss_mib
from bench.run import Figures, Run

_OBJECTS: Final = 8
_IDLE_SECONDS: Final = 1  # after which a gate without connections ends
_PATIENCE: Final = 30.0
_SETTLING: Final = 0.5  # seconds in which processes that have just answered come to rest


def measure(run: Run) -> Figures:
    """Memory in MiB, times in milliseconds, an active client's rounds beside idle connections."""
    directory = run.room("m")
    with (
        Firmware.up(directory / "k", configuration(1, _IDLE_SECONDS)) as firmware,
        server(directory / "s") as behind,
    ):
        firmware.guest("bench", [apqn(0)])
        ours = keyvisor(firmware, "bench", [apqn(0)])
        for peer in (behind, ours):
            for label in peer.tokens:
                prepare(run.client, peer, label, _OBJECTS)
        return {
            **_cold(run, firmware, firmware.door("bench")),
            behind.name: _crowded(run, behind, lambda: [_pid(behind), *_pids(_pid(behind))]),
            ours.name: _crowded(run, ours, firmware.gates),
        }


def _pid(peer: Peer) -> int:
    assert peer.process is not None  # noqa: S101 - it has a process of its own
    return peer.process


def _pids(parent: int) -> list[int]:
    return [pid for pid, _ in children(parent)]


def _cold(run: Run, firmware: Firmware, door: Path) -> Figures:
    """How long C_Initialize takes that has to wait for the gate's start, and what the gate then takes, idle."""
    times: list[float] = []
    memory: list[float] = []
    for number in range(run.size.cold_starts):
        run.say(f"cold gate, start {number + 1} of {run.size.cold_starts}")
        _wait(lambda: not firmware.gates())
        with connections(door, 1) as opened:
            times += opened.milliseconds
        time.sleep(_SETTLING)  # less than it takes a gate to end
        memory.append(pss_mib(firmware.gates()))
    return {"cold gate, ms": times, "idle gate, MiB": memory}


def _wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not until():
        if time.monotonic() > end:
            raise SystemExit("a gate that is idle does not end")
        time.sleep(0.05)


def _crowded(run: Run, peer: Peer, pids: Callable[[], list[int]]) -> Figures:
    """What the peer's processes take, and how quick an active client is, beside more and more idle connections."""
    assert peer.door is not None  # noqa: S101 - it is not in the client's process
    figures: Figures = {}
    with crowd(run.client, peer) as active:
        for count in (0, *run.size.connections):
            run.say(f"{peer.name}: {count:,} idle connections")
            begin = time.perf_counter()
            with connections(peer.door, count) as opened:
                seconds = time.perf_counter() - begin
                time.sleep(_SETTLING)
                figures[str(count)] = {
                    "failures": len(opened.failures),
                    "seconds": seconds,
                    "milliseconds": opened.milliseconds,
                    "processes": len(pids()),
                    "pss_mib": pss_mib(pids()),
                    "active": [
                        as_json(active.measure("session-info", run.size.seconds))
                        for _ in range(run.size.rounds)
                    ],
                }
            _wait_for_rest(peer, pids)
        figures["all gone, MiB"] = pss_mib(pids())
    return figures


def _wait_for_rest(peer: Peer, pids: Callable[[], list[int]]) -> None:
    """A server with a process for each connection needs a while to lose them."""
    if peer.name != KEYVISOR:
        _wait(lambda: len(pids()) <= 2)
    time.sleep(_SETTLING)
