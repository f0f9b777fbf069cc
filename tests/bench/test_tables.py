"""The figures as rows: medians, ratios with their spread, geometric means; what failed is said."""

from __future__ import annotations

import pytest
from bench.run import Figures
from bench.table import Table
from bench.tables import SECTIONS, tables

from .samples import FIGURES

MADE = {table.title: table for table in tables(FIGURES)}
REQUESTS = MADE["Requests: 1 process"]


def _row(table: Table, name: str) -> dict[str, str]:
    row = next(row for row in table.rows if row[0] == name)
    return dict(zip(table.columns, row, strict=True))


def test_a_row_has_the_medians_of_each_peer() -> None:
    row = _row(REQUESTS, "HMAC-SHA256, 1 KiB")
    assert (row["SoftHSM op/s"], row["p11-kit op/s"], row["keyvisor op/s"]) == ("400", "100", "200")
    assert (row["p11-kit p50"], row["keyvisor p50"]) == ("10", "40")
    assert (row["p11-kit p99"], row["keyvisor p99"]) == ("20", "80")


def test_a_ratio_is_the_median_of_the_rounds_with_least_and_most() -> None:
    row = _row(REQUESTS, "HMAC-SHA256, 1 KiB")
    assert row["to p11-kit"] == "2.00 (1.00-8.00)"
    assert row["to SoftHSM"] == "0.500 (0.250-0.500)"


def test_the_last_row_are_geometric_means() -> None:
    row = _row(REQUESTS, "geometric mean")
    assert REQUESTS.rows[-1][0] == "geometric mean"
    assert (row["SoftHSM op/s"], row["keyvisor op/s"], row["keyvisor p50"]) == ("200", "100", "20")
    assert (row["to p11-kit"], row["to SoftHSM"]) == ("1.00", "0.500")


def test_an_operation_says_among_how_many_it_finds() -> None:
    assert _row(REQUESTS, "C_FindObjects, one of 1,000")["keyvisor op/s"] == "50"


def test_what_a_connection_takes_is_the_growth_over_none() -> None:
    row = _row(MADE["Idle guests and connections"], "per idle connection of 10, MiB")
    assert (row["p11-kit server"], row["keyvisor"]) == ("1.200", "0.050")


@pytest.mark.parametrize(
    ("title", "row", "told"),
    [
        ("Idle guests and connections", "failures of 10 connections", "3"),
        ("Idle guests and connections", "first answer of a cold gate, ms", "100 (90-120)"),
        ("Idle guests and connections", "idle guest's gate, MiB", "15.0 (15.0-15.3)"),
        ("Idle guests and connections", "after 10 have gone and one is left, MiB", "15.5"),
        ("4 guests", "failures", "1"),
        ("4 guests", "first answer, median (least-most), ms", "300 (200-400)"),
        ("4 guests", "one gate, PSS, MiB", "12.0"),
        ("4 guests", "to start one guest and associate its HSM, ms", "250"),
    ],
)
def test_what_one_peer_does_is_told(title: str, row: str, told: str) -> None:
    assert _row(MADE[title], row)["keyvisor"] == told


def test_no_answer_at_all_is_no_time() -> None:
    none: Figures = {
        **FIGURES,
        "guests": {**FIGURES["guests"], "milliseconds": [], "gates": 0, "failures": 4},
    }
    table = next(table for table in tables(none) if table.title == "4 guests")
    assert _row(table, "first answer, median (least-most), ms")["keyvisor"] == ""


def test_growth_has_a_column_for_each_size() -> None:
    assert MADE["Growth: rules"].columns == ("operation", "10", "10,000")
    assert MADE["Growth: rules"].rows == (("HMAC-SHA256", "10 (10-10)", "1,234 (1,234-1,234)"),)


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        ("create a guest of 256 MiB", ["100 (50-200)", "10,000 (5,000-20,000)", "100"]),
        ("create a CPU", ["40 (40-40)", "20,000 (20,000-20,000)", "500"]),
        ("storage query", ["1,000 (900-1,100)", "", ""]),
        ("init, once, milliseconds", ["12.3", "", ""]),
    ],
)
def test_a_donation_stands_beside_what_of_it_is_neither_door_nor_disk(row: str, cells: list[str]) -> None:
    assert list(_row(MADE["Storage: donations per second"], row).values())[1:] == cells


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        ("memory, KiB", ["5", "500", "100"]),
        ("memory of one range, bytes", ["512", "512", ""]),
        ("lookup, us", ["0.10 (0.10-0.10)", "0.20 (0.20-0.20)", "2.0"]),
        ("donation of 64 GiB, us", ["10 (10-20)", "20 (20-40)", "2.0"]),
    ],
)
def test_growth_of_the_zone_security_table_has_its_ratio(row: str, cells: list[str]) -> None:
    assert list(_row(MADE["Storage: ranges of the zone-security table"], row).values())[1:] == cells


def test_starts_are_told_by_how_many_guests_are_there() -> None:
    table = MADE["Storage: starting 100 guests"]
    assert table.columns == ("what", "guest 1", "guest 100", "last to first")
    assert table.rows == (("start", "20 (10-30)", "40 (30-50)", "2.0"),)


def test_the_daemon_is_told_with_and_without_guests() -> None:
    table = MADE["Storage: the daemon and its guests"]
    assert _row(table, "a start of the daemon, s") == {
        "what": "a start of the daemon, s",
        "0 guests": "1.0",
        "100 guests": "2.0",
    }
    assert _row(table, "stop of one guest, ms")["100 guests"] == "7"


@pytest.mark.parametrize(
    ("title", "row", "cells"),
    [
        ("blocks of 4 KiB in memory", "AES-256-GCM, sealed", ["1,000 (1,000-1,500)", "0.75 (0.50-1.00)"]),
        (
            "an image built, step by step",
            "read the changed blocks, seal, hash and store them, MB/s",
            ["819", "2,048"],
        ),
        ("an image built, step by step", "the whole build, MB/s", ["68", "171"]),
        ("an image built, step by step", "seal, hash and store: to `cp`", ["0.41", "1.02"]),
        (
            "an image built, step by step",
            "all blocks read and verified, MB/s",
            ["819 (819-819)", "8,192 (8,192-8,192)"],
        ),
        ("growth in size", "open, ms", ["2.0 (1.0-4.0)"] * 2),
        ("growth in size", "tags, kB", ["1,600", "16,000"]),
        ("growth in size", "blocks opened for it, %", ["0.003", "0.000"]),
        ("growth in size", "first file: times sooner than all", ["250", "250"]),
        ("growth in layers", "maps, kB", ["1.5", "84.0"]),
        ("growth in layers", "build, s", ["6.0", "12.0"]),
    ],
)
def test_an_image_is_told_in_rates_and_ratios(title: str, row: str, cells: list[str]) -> None:
    assert list(_row(MADE[f"Containers: {title}"], row).values())[1:] == cells


def test_a_step_that_an_image_of_one_layer_has_not_is_no_rate() -> None:
    one = FIGURES["containers"]["sizes"]["300"]
    seconds = {step: taken for step, taken in one["seconds"].items() if step != "copy"}
    sizes = {"300": {**one, "seconds": seconds}}
    made = tables({**FIGURES, "containers": {**FIGURES["containers"], "sizes": sizes}})
    table = next(table for table in made if table.title == "Containers: an image built, step by step")
    assert _row(table, "copy the volume for the next layer, MB/s")["300 MiB"] == ""


def test_a_section_that_was_not_measured_has_no_table() -> None:
    few = {name: FIGURES[name] for name in ("machine", "method", "filter")}
    assert [table.title for table in tables(few)] == ["The filter's own cost, microseconds per call"]


def test_every_section_has_tables() -> None:
    for section in SECTIONS:
        assert list(tables({"method": FIGURES["method"], section: FIGURES[section]}))


@pytest.mark.parametrize("table", MADE.values(), ids=MADE)
def test_every_row_has_a_cell_for_each_column(table: Table) -> None:
    assert {len(row) for row in table.rows} == {len(table.columns)}


@pytest.mark.parametrize(
    ("row", "cells"),
    [
        ("`check`, ms", ["1.0 (1.0-2.0)", "4.0 (4.0-8.0)", "4.0"]),
        ("`plan` for 20 HSMs, ms", ["1.0 (1.0-2.0)", "4.0 (4.0-8.0)", "4.0"]),
        ("a decision that allows, us", ["2.0 (2.0-4.0)", "50.0 (50.0-100.0)", "25.0"]),
    ],
)
def test_growth_of_a_policy_has_its_ratio(row: str, cells: list[str]) -> None:
    assert list(_row(MADE["Policy: rules alike but for their firmware"], row).values())[1:] == cells
