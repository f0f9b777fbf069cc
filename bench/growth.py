"""Section `growth`: what becomes of the latency when a guest's policy has more rules, or a partition more objects."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from bench.clients import crowd, prepare
from bench.firmware import Firmware, apqn, configuration
from bench.peers import Peer, direct, keyvisor
from bench.run import Figures, Run
from bench.side_by_side import in_turn

_LEAST_OBJECTS = 8  # `find` looks for one of them


def measure(run: Run) -> Figures:
    """Rounds per number of rules, and per number of objects with keyvisor and with SoftHSM alone."""
    directory = run.room("g")
    rules, objects = run.size.growing_rules, run.size.growing_objects
    with Firmware.up(directory / "k", configuration(len(rules) + len(objects))) as firmware:
        by_rules = {
            f"{count:,}": _guest(run, firmware, number, rules=count) for number, count in enumerate(rules)
        }
        by_objects = {
            f"{count:,}": _guest(run, firmware, len(rules) + number) for number, count in enumerate(objects)
        }
        plain = {f"{count:,}": direct(directory / f"d{count}") for count in objects}
        _fill(run, by_rules, dict.fromkeys(by_rules, _LEAST_OBJECTS))
        counts = {f"{count:,}": count for count in objects}
        for peers in (by_objects, plain):  # not at once: together they take four times as long
            run.say(f"making up to {max(objects):,} objects")
            _fill(run, peers, counts)
        return {
            "rules": _rounds(run, by_rules, ("session-info", "hmac-1k")),
            "objects": _rounds(run, by_objects, ("hmac-1k", "find")),
            "objects, SoftHSM alone": _rounds(run, plain, ("hmac-1k", "find")),
        }


def _guest(run: Run, firmware: Firmware, number: int, rules: int = 0) -> Peer:
    name = f"growth-{number}"
    run.say(f"starting a guest with {max(rules, 1):,} rules")
    firmware.guest(name, [apqn(number)], rules)
    return keyvisor(firmware, name, [apqn(number)])


def _fill(run: Run, peers: Mapping[str, Peer], counts: Mapping[str, int]) -> None:
    for name, peer in peers.items():
        for label in peer.tokens:
            prepare(run.client, peer, label, counts[name])


def _rounds(run: Run, peers: Mapping[str, Peer], operations: tuple[str, ...]) -> Figures:
    with contextlib.ExitStack() as stack:
        crowds = {name: stack.enter_context(crowd(run.client, peer)) for name, peer in peers.items()}
        return {operation: in_turn(run, crowds, operation, "growth") for operation in operations}
