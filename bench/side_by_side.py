"""Section `requests`: every operation on every peer, the peers in turn, so that the machine's moods meet all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from bench.clients import Crowd, as_json, crowd, prepare
from bench.firmware import Firmware, apqn, configuration
from bench.operations import NOT_WITH_THREADS, OPERATIONS
from bench.peers import Peer, direct, keyvisor, server
from bench.run import Figures, Run

_HSMS = tuple(apqn(domain) for domain in range(3))
_POINTS = 50  # control points that each call is decided by
_KEYS_ONLY = 8  # objects of a token that is not for searching


def measure(run: Run) -> Figures:
    """Per shape, operation and peer: what each round measured."""
    directory = run.room("r")
    logins = max(clients for clients, _ in run.size.shapes)
    with contextlib.ExitStack() as stack:
        firmware = stack.enter_context(Firmware.up(directory / "k", configuration(len(_HSMS))))
        firmware.guest("bench", _HSMS, points=_POINTS)
        peers = (
            direct(directory / "d", logins),
            stack.enter_context(server(directory / "s", logins)),
            keyvisor(firmware, "bench", _HSMS),
        )
        for peer in peers:
            run.say(f"making the keys and objects of {peer.name}")
            _fill(run, peer)
        return {
            shape_name(clients, threads): _shape(run, peers, clients, threads)
            for clients, threads in run.size.shapes
        }


def shape_name(clients: int, threads: int) -> str:
    """What a number of clients is called."""
    processes = "1 process" if clients == 1 else f"{clients} processes"
    return processes if threads == 1 else f"{processes} with {threads} threads"


def _fill(run: Run, peer: Peer) -> None:
    prepare(run.client, peer, peer.objects, run.size.objects)
    for label in (peer.keys, *peer.logins):
        prepare(run.client, peer, label, _KEYS_ONLY)


def _shape(run: Run, peers: Sequence[Peer], clients: int, threads: int) -> Figures:
    name = shape_name(clients, threads)
    run.say(f"{name}: starting the clients")
    operations = [one for one in OPERATIONS if threads == 1 or one not in NOT_WITH_THREADS]
    with contextlib.ExitStack() as stack:
        crowds = {peer.name: stack.enter_context(crowd(run.client, peer, clients, threads)) for peer in peers}
        return {operation: _rounds(run, crowds, operation, name) for operation in operations}


def _rounds(run: Run, crowds: Mapping[str, Crowd], operation: str, shape: str) -> Figures:
    return in_turn(
        run, crowds, operation, f"{shape}: {OPERATIONS[operation].format(objects=run.size.objects)}"
    )


def in_turn(run: Run, crowds: Mapping[str, Crowd], operation: str, telling: str) -> Figures:
    """All rounds of one operation, the crowds in turn within each."""
    figures: Figures = {name: [] for name in crowds}
    for number in range(run.size.rounds):
        run.say(f"{telling}, round {number + 1} of {run.size.rounds}")
        for name, one in crowds.items():
            figures[name].append(as_json(one.measure(operation, run.size.seconds)))
    return figures
