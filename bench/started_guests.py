"""Many guests one after the other: what each takes to start when so many are there, and the daemon with all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.firmware import Firmware, configuration
from bench.processes import processor_seconds, pss_mib
from bench.run import Figures, Run

_WINDOW: Final = 10  # starts whose median stands for the one in their middle
_ROOM: Final = 1024  # guests that the configuration has room for
_QUESTIONS: Final = 20
_IDLE_SECONDS: Final = 2


def started_guests(run: Run, directory: Path) -> Figures:
    """Starts of guests with one CPU and a small image; questions, a stop, and a new start of the daemon beside all of them."""
    count = run.size.started_guests
    config = configuration(1, guests=max(_ROOM, count))
    _up(run, directory, config)  # makes the state directory
    empty = _up(run, directory, config)
    with Firmware.up(directory, config) as firmware:
        image = firmware.owner.build_image(kernel=b"any kernel").data
        none = _beside(firmware)
        times = [_started(run, firmware, image, number) for number in range(count)]
        all_of_them = _beside(firmware)
        begin = time.perf_counter()
        firmware.host.stop(f"guest-{count // 2}")
        stopped = (time.perf_counter() - begin) * 1000
    none["restart, s"], all_of_them["restart, s"] = empty, _up(run, directory, config)
    return {
        "guests": count,
        "start": {f"{mark:,}": _around(times, mark) for mark in run.size.marks},
        "stop": stopped,
        "daemon": {"0": none, f"{count:,}": all_of_them},
    }


def _started(run: Run, firmware: Firmware, image: bytes, number: int) -> float:
    """Milliseconds."""
    run.say(f"starting guest {number + 1:,} of {run.size.started_guests:,}")
    begin = time.perf_counter()
    firmware.host.start(f"guest-{number}", image)
    return (time.perf_counter() - begin) * 1000


def _around(times: list[float], mark: int) -> list[float]:
    """The starts around the one with that number, from 1 on."""
    first = min(max(mark - 1 - _WINDOW // 2, 0), max(len(times) - _WINDOW, 0))
    return times[first : first + _WINDOW]


def _beside(firmware: Firmware) -> Figures:
    """Milliseconds of what a host asks, medians; the daemon's memory, and its work while nobody asks."""
    host = firmware.host
    asked = {"query, ms": host.query_storage, "ledger, ms": host.storage, "list, ms": host.guests}
    found: Figures = {name: statistics.median(_times(ask)) for name, ask in asked.items()}
    found["PSS, MiB"] = pss_mib([firmware.process])
    worked = processor_seconds(firmware.process)
    time.sleep(_IDLE_SECONDS)
    found["idle, %"] = (processor_seconds(firmware.process) - worked) / _IDLE_SECONDS * 100
    return found


def _times(ask: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(_QUESTIONS):
        begin = time.perf_counter()
        ask()
        times.append((time.perf_counter() - begin) * 1000)
    return times


def _up(run: Run, directory: Path, config: str) -> float:
    """Seconds until the daemon's doors answer."""
    run.say("starting the daemon")
    begin = time.perf_counter()
    with Firmware.up(directory, config):
        return time.perf_counter() - begin
