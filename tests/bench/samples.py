"""Figures of a run that never was: small, and easy to work out by hand."""

from __future__ import annotations

from bench.peers import DIRECT, KEYVISOR, SERVER
from bench.run import Figures


def rounds(*per_second: float, p50: float = 10.0) -> list[dict[str, float]]:
    """Rounds with those operations per second."""
    return [{"per_second": one, "p50": p50, "p99": 2 * p50, "count": 100} for one in per_second]


def crowded(first: float, last: float) -> Figures:
    """What a peer takes alone and beside 10 connections."""
    beside = {"failures": 0, "seconds": 0.1, "milliseconds": [1.0, 2.0, 3.0], "processes": 1}
    return {
        "all gone, MiB": last,
        "0": {**beside, "pss_mib": first, "active": rounds(1.0)},
        "10": {**beside, "failures": 3, "pss_mib": last, "active": rounds(1.0, p50=40.0)},
    }


FIGURES: Figures = {
    "machine": {"date": "2026-01-02", "processor": "A Processor", "cores": "2"},
    "method": {"rounds": 3, "seconds": 0.25, "objects": 1000, "connections": [10]},
    "requests": {
        "1 process": {
            "hmac-1k": {
                DIRECT: rounds(400.0, 800.0, 400.0),
                SERVER: rounds(100.0, 50.0, 100.0),
                KEYVISOR: rounds(200.0, 400.0, 100.0, p50=40.0),
            },
            "find": {
                DIRECT: rounds(100.0, 100.0, 100.0),
                SERVER: rounds(100.0, 100.0, 100.0),
                KEYVISOR: rounds(50.0, 50.0, 50.0),
            },
        }
    },
    "filter": {"C_GetSessionInfo": {"request to reply": 4.0, "filter": 0.25}},
    "growth": {"rules": {"hmac-1k": {"10": rounds(1.0, 2.0), "10,000": rounds(1.0, p50=1234.0)}}},
    "memory": {
        "cold gate, ms": [100.0, 90.0, 120.0],
        SERVER: crowded(2.0, 14.0),
        KEYVISOR: crowded(15.0, 15.5),
        "idle gate, MiB": [15.04, 15.0, 15.26],
    },
    "guests": {
        "guests": 4,
        "start and associate, s": 1.0,
        "failures": 1,
        "first answers, s": 0.5,
        "milliseconds": [300.0, 200.0, 400.0],
        "gates": 4,
        "gates, MiB": 48.0,
        "daemon, MiB": 60.0,
    },
}
