"""The tables of the section `policy`. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bench.figures import spread
from bench.run import Figures
from bench.table import Table

_SHAPES: Final = {
    "own MKVP": "each rule has an MKVP of its own",
    "firmware": "rules alike but for their firmware",
}
_ROWS: Final = {
    "check": ("`check`, ms", 1),
    "plan": ("`plan` for {hsms:,} HSMs, ms", 1),
    "prove": ("`prove`, ten `never`, ms", 1),
    "implies": ("`prove --implies`, ms", 1),
    "permit": ("a decision that allows, us", 1),
    "refuse": ("a decision that refuses, with every rule's reasons, us", 0),
}


def policy_tables(figures: Figures, _method: Figures) -> Iterator[Table]:
    """One table for each shape of rules."""
    for shape, shown in _SHAPES.items():
        yield _table(shown, figures[shape], figures["hsms"])


def _table(shown: str, by_count: Figures, hsms: int) -> Table:
    counts = list(by_count)
    first, last = by_count[counts[0]], by_count[counts[-1]]

    def row(name: str, text: str, digits: int) -> tuple[str, ...]:
        cells = (_spread(by_count[count][name], digits) for count in counts)
        ratio = spread(last[name]).median / spread(first[name]).median
        return text.format(hsms=hsms), *cells, f"{ratio:,.1f}"

    return Table(
        f"Policy: {shown}",
        "Medians with the least and the most of the rounds. A tool is given a policy in memory that nobody has asked yet;"
        " reading its file comes before. A decision is one association, as the firmware asks for it; its indexes are there."
        f" The last column is {counts[-1]} rules to {counts[0]}.",
        ("what", *(f"{count} rules" for count in counts), "ratio"),
        tuple(row(name, *said) for name, said in _ROWS.items()),
    )


def _spread(values: list[float], digits: int) -> str:
    found = spread(values)
    return f"{found.median:,.{digits}f} ({found.least:,.{digits}f}-{found.most:,.{digits}f})"
