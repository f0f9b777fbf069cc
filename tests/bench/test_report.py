"""The page: the machine, the method, every table; the same figures give the same page."""

from __future__ import annotations

from io import StringIO

from bench.report import page, printed, updated
from bench.run import Figures
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


def _of(section: str, date: str) -> Figures:
    return {
        "machine": {**FIGURES["machine"], "date": date},
        "method": FIGURES["method"],
        section: FIGURES[section],
    }


def test_a_section_that_is_measured_again_leaves_all_others_as_they_are() -> None:
    before = page(FIGURES)
    after = updated(before, _of("growth", "2026-05-06"))
    assert after.replace(" Measured on 2026-05-06, A Processor.", "") == before
    assert after.count("Measured on 2026-05-06, A Processor.") == 1
    assert updated(after, _of("growth", "2026-05-06")) == after


def test_a_section_that_the_page_does_not_have_stands_behind_all_others() -> None:
    without = page({name: value for name, value in FIGURES.items() if name != "storage"})
    after = updated(without, _of("storage", "2026-05-06"))
    assert after.startswith(without)
    titles = [line for line in after.splitlines() if line.startswith("## Storage")]
    assert titles == [f"## {table.title}" for table in tables(_of("storage", "2026-05-06"))]


def test_the_terminal_has_every_table() -> None:
    console = Console(file=StringIO(), width=200)
    for shown in printed(FIGURES):
        console.print(shown)
    assert isinstance(console.file, StringIO)
    told = console.file.getvalue()
    for table in tables(FIGURES):
        assert table.title in told
        assert table.rows[0][0] in told
