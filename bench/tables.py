"""The figures of a run as tables: what stands in which row and column, as text. Pure; knows neither terminal nor page."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from bench.container_tables import container_tables
from bench.figures import Spread, geometric_mean, ratios, spread
from bench.operations import OPERATIONS
from bench.peers import DIRECT, KEYVISOR, SERVER
from bench.policy_tables import policy_tables
from bench.run import Figures
from bench.storage_tables import storage_tables
from bench.table import Table

_MEANS: Final = "geometric mean"


def tables(figures: Figures) -> Iterator[Table]:
    """The tables of all sections that were measured, in the order of SECTIONS."""
    for section, make in SECTIONS.items():
        if section in figures:
            yield from make(figures[section], figures["method"])


# --- requests


def _requests(figures: Figures, method: Figures) -> Iterator[Table]:
    for shape, operations in figures.items():
        rows = [(name, *_cells(operations[name])) for name in operations]
        means = [geometric_mean([cells[at] for _, *cells in rows]) for at in range(len(rows[0]) - 1)]
        shown = [
            (
                OPERATIONS[name].format(objects=method["objects"]),
                *_shown(cells, *_ratio_spreads(operations[name])),
            )
            for name, *cells in rows
        ]
        yield Table(
            f"Requests: {shape}",
            "Operations per second; p50 and p99 in microseconds; ratios of operations per second.",
            (
                "operation",
                "SoftHSM op/s",
                "p11-kit op/s",
                "keyvisor op/s",
                "p11-kit p50",
                "keyvisor p50",
                "p11-kit p99",
                "keyvisor p99",
                "to p11-kit",
                "to SoftHSM",
            ),
            (*shown, (_MEANS, *_shown(means, None, None))),
        )


def _cells(peers: Mapping[str, list[Figures]]) -> list[float]:
    """Medians: operations per second of the three, p50 and p99 of two, ratios to two."""
    per_second = [median(peers[name], "per_second") for name in (DIRECT, SERVER, KEYVISOR)]
    latencies = [median(peers[name], field) for field in ("p50", "p99") for name in (SERVER, KEYVISOR)]
    return [*per_second, *latencies, *(one.median for one in _ratio_spreads(peers))]


def _ratio_spreads(peers: Mapping[str, list[Figures]]) -> tuple[Spread, Spread]:
    per_second = {name: [one["per_second"] for one in rounds] for name, rounds in peers.items()}
    return (
        ratios(per_second[KEYVISOR], per_second[SERVER]),
        ratios(per_second[KEYVISOR], per_second[DIRECT]),
    )


def _shown(cells: Sequence[float], to_server: Spread | None, to_direct: Spread | None) -> list[str]:
    return [
        *(f"{cell:,.0f}" for cell in cells[:-2]),
        f"{cells[-2]:.2f}" + _range(to_server),
        f"{cells[-1]:.3f}" + _range(to_direct, 3),
    ]


def _range(spread_: Spread | None, digits: int = 2) -> str:
    return "" if spread_ is None else f" ({spread_.least:.{digits}f}-{spread_.most:.{digits}f})"


def median(rounds: Sequence[Figures], field: str) -> float:
    """The median of one figure over the rounds."""
    return statistics.median([float(one[field]) for one in rounds])


# --- the filter


def _filter(figures: Figures, _method: Figures) -> Iterator[Table]:
    ways = tuple(next(iter(figures.values())))
    yield Table(
        "The filter's own cost, microseconds per call",
        "Without a socket, and with a module that does nothing: from the bytes of a request to the bytes of its reply; "
        "of that, reading the request; the filter alone is admitting the call and confirming its grant.",
        ("call", *ways),
        tuple((name, *(f"{costs[way]:.2f}" for way in ways)) for name, costs in figures.items()),
    )


# --- memory


def _memory(figures: Figures, method: Figures) -> Iterator[Table]:
    both = (figures[SERVER], figures[KEYVISOR])
    counts = method["connections"]
    cold, idle = spread(figures["cold gate, ms"]), spread(figures["idle gate, MiB"])
    rows: list[tuple[str, ...]] = [
        ("first answer of a cold gate, ms", "", f"{cold.median:.0f}{_range(cold, 0)}"),
        ("idle guest's gate, MiB", "", f"{idle.median:.1f}{_range(idle, 1)}"),
    ]
    rows += [
        (f"per idle connection of {count:,}, MiB", *(f"{_per_connection(peer, count):.3f}" for peer in both))
        for count in counts
    ]
    rows += [
        (name.format(count=count), *(show(peer[str(count)]) for peer in both))
        for name, show in _CROWDED.items()
        for count in counts
    ]
    rows.append((_ACTIVE + " with no other connection", *(_active(peer["0"]) for peer in both)))
    left = (f"{peer['all gone, MiB']:.1f}" for peer in both)
    rows.append((f"after {max(counts):,} have gone and one is left, MiB", *left))
    yield Table(
        "Idle guests and connections",
        "Memory is the proportional set size (PSS) of the processes that serve. An idle connection has done C_Initialize.",
        ("what", SERVER, KEYVISOR),
        tuple(rows),
    )


def _per_connection(peer: Figures, count: int) -> float:
    return float(peer[str(count)]["pss_mib"] - peer["0"]["pss_mib"]) / count


def _active(figures: Figures) -> str:
    return f"{median(figures['active'], 'p50'):.0f}"


_ACTIVE: Final = "an active client's C_GetSessionInfo, p50, us,"
_CROWDED: Final[dict[str, Callable[[Figures], str]]] = {
    "connect and C_Initialize, ms, of {count:,}": lambda figures: (
        f"{statistics.median(figures['milliseconds']):.1f}"
    ),
    "failures of {count:,} connections": lambda figures: f"{figures['failures']}",
    _ACTIVE + " beside {count:,}": _active,
}


# --- guests


def _guests(figures: Figures, _method: Figures) -> Iterator[Table]:
    answers = spread(figures["milliseconds"]) if figures["milliseconds"] else None
    rows = [
        ("failures", f"{figures['failures']}"),
        ("until all have had their first answer, s", f"{figures['first answers, s']:.1f}"),
        (
            "first answer, median (least-most), ms",
            "" if answers is None else f"{answers.median:.0f}{_range(answers, 0)}",
        ),
        ("all gates, PSS, MiB", f"{figures['gates, MiB']:.0f}"),
        ("one gate, PSS, MiB", f"{figures['gates, MiB'] / max(figures['gates'], 1):.1f}"),
        ("the daemon, PSS, MiB", f"{figures['daemon, MiB']:.0f}"),
        (
            "to start one guest and associate its HSM, ms",
            f"{figures['start and associate, s'] / figures['guests'] * 1000:.0f}",
        ),
    ]
    yield Table(
        f"{figures['guests']} guests",
        "Each has one associated HSM and one connection; no gate runs when all of them connect at once.",
        ("what", KEYVISOR),
        tuple(rows),
    )


# --- growth


def _growth(figures: Figures, _method: Figures) -> Iterator[Table]:
    for what, operations in figures.items():
        sizes = tuple(next(iter(operations.values())))
        yield Table(
            f"Growth: {what}",
            "p50 in microseconds, the least and the most of the rounds in brackets.",
            ("operation", *sizes),
            tuple(
                (
                    OPERATIONS[name].format(objects=0).partition(",")[0],
                    *(_p50(sizes_of[size]) for size in sizes),
                )
                for name, sizes_of in operations.items()
            ),
        )


def _p50(rounds: Sequence[Figures]) -> str:
    found = spread([one["p50"] for one in rounds])
    return f"{found.median:,.0f} ({found.least:,.0f}-{found.most:,.0f})"


SECTIONS: Final[dict[str, Callable[[Figures, Figures], Iterator[Table]]]] = {
    "requests": _requests,
    "filter": _filter,
    "growth": _growth,
    "memory": _memory,
    "guests": _guests,
    "storage": storage_tables,
    "policy": policy_tables,
    "containers": container_tables,
}
