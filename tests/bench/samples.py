"""Figures of a run that never was: small, and easy to work out by hand."""

from __future__ import annotations

from bench.cipher_speeds import IN_PYTHON_ONLY, OPENSSL, OPENSSL_AEAD
from bench.peers import DIRECT, KEYVISOR, SERVER
from bench.run import Figures

CIPHERS = tuple(
    f"{name} {step}{suffix}"
    for suffix in ("", IN_PYTHON_ONLY)
    for name in ("gcm", "xts")
    for step in ("seal", "open")
)


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


def ranges(taken: int, lookup: float, donation: float) -> Figures:
    """What a zone-security table takes: bytes and microseconds."""
    return {
        "bytes": taken,
        "lookup": [lookup],
        "4 KiB": [donation],
        "64 GiB": [donation, 2 * donation, donation],
    }


def beside(each: float) -> Figures:
    """What a daemon does beside its guests."""
    names = ("query, ms", "ledger, ms", "list, ms", "PSS, MiB", "idle, %", "restart, s")
    return dict.fromkeys(names, each)


def asked(tools: float, decisions: float) -> Figures:
    """What a policy takes: milliseconds of each tool and microseconds of each decision."""
    names = {
        "check": tools,
        "plan": tools,
        "prove": tools,
        "implies": tools,
        "permit": decisions,
        "refuse": decisions,
    }
    return {name: [each, 2 * each, each] for name, each in names.items()}


def an_image(tars: int, times: float) -> Figures:
    """An image of so many bytes in tars: seconds of each step and of reading it."""
    return {
        "seconds": dict.fromkeys(("measure", "ext4", "fsck", "copy", "diff", "encrypt"), times),
        "map": 1500,
        "tags": tars // 256,
        "data": 2 * tars,
        "tars": tars,
        "layers": 4,
        "cp": 2000.0,
        "open": [0.002, 0.001, 0.004],
        "first file": [0.004, 0.003, 0.008],
        "read": [1.0],
        "verify": [2.0],
        "opened": 5,
        "stored": 2 * tars // 4096,
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
    "storage": {
        "donations": {
            "init, ms": 12.34,
            "door": {
                "create guest": [100.0, 50.0, 200.0],
                "destroy guest": [100.0],
                "create large guest": [80.0],
                "destroy large guest": [80.0],
                "create cpu": [40.0],
                "destroy cpu": [40.0],
                "query": [900.0, 1100.0, 1000.0],
            },
            "core": {
                "create guest": [10_000.0, 5000.0, 20_000.0],
                "destroy guest": [10_000.0],
                "create large guest": [10_000.0],
                "destroy large guest": [10_000.0],
                "create cpu": [20_000.0],
                "destroy cpu": [20_000.0],
            },
        },
        "ranges": {
            "10": ranges(5120, 0.1, 10.0),
            "1,000": ranges(512_000, 0.2, 20.0),
        },
        "guests": {
            "guests": 100,
            "start": {"1": [10.0, 20.0, 30.0], "100": [40.0, 50.0, 30.0]},
            "stop": 7.0,
            "daemon": {"0": beside(1.0), "100": beside(2.0)},
        },
    },
    "policy": {
        "hsms": 20,
        **{shape: {"10": asked(1.0, 2.0), "1,000": asked(4.0, 50.0)} for shape in ("own MKVP", "firmware")},
    },
    "containers": {
        "speeds": {
            OPENSSL: [2000.0, 1000.0, 2000.0],
            OPENSSL_AEAD: [1000.0, 1000.0, 1000.0],
            **{name: [1000.0, 1000.0, 1500.0] for name in (*CIPHERS, "sha256")},
        },
        "sizes": {"300": an_image(409_600_000, 1.0), "2,048": an_image(4_096_000_000, 4.0)},
        "layers": {"1": an_image(4_096_000, 1.0), "100": {**an_image(4_096_000, 2.0), "map": 84_000}},
    },
}
