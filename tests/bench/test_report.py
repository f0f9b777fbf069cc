"""The page: the machine, the method, every table; the same figures give the same page."""

from __future__ import annotations

from io import StringIO

from bench.report import page, printed
from bench.tables import tables
from rich.console import Console

from .samples import FIGURES


def test_the_page_says_on_what_and_when() -> None:
    assert "- date: 2026-01-02\n- processor: A Processor\n- cores: 2\n" in page(FIGURES)


def test_the_page_says_how() -> None:
    assert "measured in 3 rounds of 0.25 s" in page(FIGURES)


def test_the_page_has_every_table_with_all_its_rows() -> None:
    lines = page(FIGURES).splitlines()
    for table in tables(FIGURES):
        at = lines.index(f"## {table.title}")
        rows = [f"| {' | '.join(row)} |" for row in table.rows]
        first = lines.index(f"| {' | '.join(table.columns)} |", at)
        assert lines[first + 2 : first + 2 + len(rows)] == rows


def test_the_same_figures_give_the_same_page() -> None:
    assert page(FIGURES) == page(FIGURES)


def test_the_terminal_has_every_table() -> None:
    console = Console(file=StringIO(), width=200)
    for shown in printed(FIGURES):
        console.print(shown)
    assert isinstance(console.file, StringIO)
    told = console.file.getvalue()
    for table in tables(FIGURES):
        assert table.title in told
        assert table.rows[0][0] in told
