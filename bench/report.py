"""docs/performance.md and the terminal's output: the same tables, twice. The same figures give the same page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rich.table import Table as Printed

from bench.run import Figures
from bench.table import Table
from bench.tables import tables

_METHOD = """\
`make bench` compiles a small C client and starts the peers: SoftHSM in the client's own process; `p11-kit server` in
front of SoftHSM; keyvisor, which is a daemon with a guest whose HSMs its policy of 50 control points associates, the
whole filter, the key-extraction guard and the audit on. All three have the same tokens, and the clients of the last
two load the same `p11-kit-client.so`.

Each operation is measured in {rounds} rounds of {seconds} s, and within a round the peers take turns. Cells are medians
over the rounds; a ratio is of operations per second, taken round by round, with the least and the most in brackets.
Times are in microseconds. With several processes operations per second are summed up, and p50 and p99 are the medians
of what the clients have. Digest, HMAC, AES, ECDSA and RSA are two calls each, Init and operation; AES-ECB stands where
another mode would, because the client's release carries no AES-CBC.

In `open, login, find, close` it is a login each time: the process has no other session on that token. On SoftHSM every
client process logs in to a token of its own and with a PIN, since two that log in to one at the same time fail; with
keyvisor all share one HSM, and no PIN is set. With threads it is left out: threads share one login.
"""


def page(figures: Figures) -> str:
    """docs/performance.md."""
    parts = [
        "# Performance",
        "Made by `make bench`. Figures of one machine at one time: compare them with each other, not with other machines'.",
        "\n".join(f"- {name}: {value}" for name, value in figures["machine"].items()),
        "## Method",
        _METHOD.format(**figures["method"]).rstrip("\n"),
        *(_markdown(table) for table in tables(figures)),
    ]
    return "\n\n".join(parts) + "\n"


def updated(written: str, figures: Figures) -> str:
    """`written`, a page, with the tables of `figures` in the place of those of their titles, or behind all others.

    Each says when and on what it was measured: the rest of the page is of another run.
    """
    head, *parts = ("\n" + written).split("\n## ")
    chapters = {part.partition("\n")[0]: part.rstrip("\n") for part in parts}
    measured = "Measured on {date}, {processor}.".format(**figures["machine"])
    for table in tables(figures):
        noted = replace(table, note=f"{table.note} {measured}".lstrip())
        chapters[table.title] = _markdown(noted).removeprefix("## ")
    return "\n\n## ".join([head.strip("\n"), *chapters.values()]) + "\n"


def _markdown(table: Table) -> str:
    lines = [_row(table.columns), "|---|" + "---:|" * (len(table.columns) - 1), *map(_row, table.rows)]
    parts = [f"## {table.title}", table.note, "\n".join(lines)]
    return "\n\n".join(part for part in parts if part)


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def printed(figures: Figures) -> Iterator[Printed]:
    """The tables for the terminal."""
    for table in tables(figures):
        shown = Printed(title=table.title, caption=table.note or None)
        for column in table.columns:
            shown.add_column(column, justify="left" if column == table.columns[0] else "right")
        for row in table.rows:
            shown.add_row(*row)
        yield shown
