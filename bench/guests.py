"""Section `guests`: many guests, each with one associated HSM and one connection, all connecting at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from bench.firmware import Firmware, apqn, configuration
from bench.idle_connections import Opened
from bench.processes import pss_mib
from bench.run import Figures, Run

_IDLE_SECONDS = 1  # so that the gates that made the partitions have ended


def measure(run: Run) -> Figures:
    """Failures, times and memory (PSS) of all gates and of the daemon."""
    directory, count = run.room("n"), run.size.guests
    with Firmware.up(directory / "k", configuration(count, _IDLE_SECONDS)) as firmware:
        begin = time.perf_counter()
        for number in range(count):
            run.say(f"starting guest {number + 1} of {count}")
            firmware.guest(f"guest-{number}", [apqn(number)])
        prepared = time.perf_counter() - begin
        time.sleep(_IDLE_SECONDS + 1)
        opened = Opened()
        try:
            run.say(f"one connection to each of {count} guests, all at once")
            begin = time.perf_counter()
            with ThreadPoolExecutor(count) as pool:
                list(pool.map(opened.open, (firmware.door(f"guest-{number}") for number in range(count))))
            seconds = time.perf_counter() - begin
            gates = firmware.gates()
            return {
                "guests": count,
                "start and associate, s": prepared,
                "failures": len(opened.failures),
                "first answers, s": seconds,
                "milliseconds": opened.milliseconds,
                "gates": len(gates),
                "gates, MiB": pss_mib(gates),
                "daemon, MiB": pss_mib([firmware.process]),
            }
        finally:
            opened.close()
