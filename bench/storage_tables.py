"""The tables of the section `storage`. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bench.figures import spread
from bench.run import Figures
from bench.table import Table

_DONATIONS: Final = {
    "create guest": "create a guest of 256 MiB",
    "destroy guest": "destroy it",
    "create large guest": "create a guest of 64 GiB",
    "destroy large guest": "destroy that one",
    "create cpu": "create a CPU",
    "destroy cpu": "destroy the CPU",
    "query": "storage query",
}


def storage_tables(figures: Figures, _method: Figures) -> Iterator[Table]:
    """Donations, the zone-security table as it grows, and many guests."""
    yield _donations(figures["donations"])
    yield _ranges(figures["ranges"])
    yield _starts(figures["guests"])
    yield _daemon(figures["guests"])


def _donations(figures: Figures) -> Table:
    door, core = figures["door"], figures["core"]
    rows = [
        (
            shown,
            _spread(door[name], 0),
            _spread(core[name], 0) if name in core else "",
            f"{spread(core[name]).median / spread(door[name]).median:.0f}" if name in core else "",
        )
        for name, shown in _DONATIONS.items()
    ]
    rows.append(("init, once, milliseconds", f"{figures['init, ms']:.1f}", "", ""))
    return Table(
        "Storage: donations per second",
        "Medians with the least and the most of the rounds. Through the door: HTTP, the checks, what the firmware keeps,"
        " sealed, and a transaction that is on the disk; one request after the other. The core: the checks, and the"
        " zone-security table with its slots, in memory.",
        ("operation", "through the door", "core", "core to door"),
        tuple(rows),
    )


def _ranges(figures: Figures) -> Table:
    sizes = list(figures)
    first, last = figures[sizes[0]], figures[sizes[-1]]

    def row(shown: str, name: str, digits: int) -> tuple[str, ...]:
        cells = (_spread(figures[size][name], digits) for size in sizes)
        ratio = spread(last[name]).median / spread(first[name]).median
        return shown, *cells, f"{ratio:.1f}"

    counts = {size: int(size.replace(",", "")) for size in sizes}
    rows = (
        (
            "memory, KiB",
            *(f"{figures[size]['bytes'] / 1024:,.0f}" for size in sizes),
            f"{last['bytes'] / first['bytes']:,.0f}",
        ),
        (
            "memory of one range, bytes",
            *(f"{figures[size]['bytes'] / counts[size]:.0f}" for size in sizes),
            "",
        ),
        row("lookup, us", "lookup", 2),
        row("donation of 4 KiB, us", "4 KiB", 0),
        row("donation of 64 GiB, us", "64 GiB", 0),
    )
    return Table(
        "Storage: ranges of the zone-security table",
        "In memory, without a door. A donation: the check that it is free, the change of the table, the plan of the slots"
        " that it rewrites, both applied; half of the ranges lie above it. The last column is the last size to the first.",
        ("what", *sizes, "ratio"),
        rows,
    )


def _starts(figures: Figures) -> Table:
    marks = list(figures["start"])
    medians = [spread(figures["start"][mark]).median for mark in marks]
    return Table(
        f"Storage: starting {figures['guests']:,} guests",
        "`Host.start` of a guest with one CPU, 256 MiB of storage and an image of 100 KiB, one after the other:"
        " milliseconds, the median of the ten starts around that one, with the least and the most. Before a host starts a"
        " guest it looks into the ledger and the list of the guests: that is what grows.",
        ("what", *(f"guest {mark}" for mark in marks), "last to first"),
        (
            (
                "start",
                *(_spread(figures["start"][mark], 0) for mark in marks),
                f"{medians[-1] / medians[0]:.1f}",
            ),
        ),
    )


def _daemon(figures: Figures) -> Table:
    daemon = figures["daemon"]
    rows = [
        (shown, *(f"{found[name]:,.{digits}f}" for found in daemon.values()))
        for name, (shown, digits) in _BESIDE.items()
    ]
    rows.append(("stop of one guest, ms", "", f"{figures['stop']:.0f}"))
    return Table(
        "Storage: the daemon and its guests",
        "What a host asks is the median of twenty times. The daemon starts on a state directory that is there, and has"
        " started when its doors answer.",
        ("what", *(f"{count} guests" for count in daemon)),
        tuple(rows),
    )


_BESIDE: Final = {
    "query, ms": ("storage query, ms", 1),
    "ledger, ms": ("ledger, ms", 1),
    "list, ms": ("list of the guests, ms", 1),
    "PSS, MiB": ("the daemon's memory, PSS, MiB", 0),
    "idle, %": ("its work while nobody asks, % of a processor", 1),
    "restart, s": ("a start of the daemon, s", 1),
}


def _spread(values: list[float], digits: int) -> str:
    found = spread(values)
    return f"{found.median:,.{digits}f} ({found.least:,.{digits}f}-{found.most:,.{digits}f})"
