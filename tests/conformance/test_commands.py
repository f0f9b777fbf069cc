"""What a command's end, its words and its files mean."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from conformance.commands import Step, judged, run_steps
from conformance.outcomes import Result
from conformance.programs import HUNG, Ran, run, serving
from conformance.sides import Side

STEP = Step("a step", "true")


@pytest.fixture
def side(tmp_path: Path) -> Side:
    return Side("plain", tmp_path, dict(os.environ), tmp_path / "client.so")


@pytest.mark.parametrize(
    ("code", "result"),
    [(0, Result.PASSED), (1, Result.FAILED), (-11, Result.CRASHED), (HUNG, Result.HUNG)],
)
def test_how_it_ends(side: Side, code: int, result: Result) -> None:
    assert judged(side, STEP, Ran(code, "words\n")).result is result


def test_files_that_have_to_be_equal(side: Side) -> None:
    step = replace(STEP, equal=("made", "wanted"))
    (side.directory / "wanted").write_bytes(b"1")
    assert judged(side, step, Ran(0, "")).result is Result.FAILED
    (side.directory / "made").write_bytes(b"2")
    assert judged(side, step, Ran(0, "")).result is Result.FAILED
    (side.directory / "made").write_bytes(b"1")
    assert judged(side, step, Ran(0, "")).result is Result.PASSED


def test_a_file_that_has_to_be_the_same_on_both_sides_is_part_of_what_it_says(side: Side) -> None:
    step = replace(STEP, same="made")
    (side.directory / "made").write_bytes(b"1")
    first = judged(side, step, Ran(0, ""))
    (side.directory / "made").write_bytes(b"2")
    assert judged(side, step, Ran(0, "")) != first


def test_the_order_of_blocks_means_nothing_where_the_step_says_so(side: Side) -> None:
    one, other = Ran(0, "A\n  1\nB\n  2\n"), Ran(0, "B\n  2\nA\n  1\n")
    mixed = Ran(0, "A\n  2\nB\n  1\n")
    unordered = replace(STEP, unordered=True)
    assert judged(side, STEP, one) != judged(side, STEP, other)
    assert judged(side, unordered, one) == judged(side, unordered, other)
    assert judged(side, unordered, one) != judged(side, unordered, mixed)


def test_steps_run_in_order_whatever_becomes_of_each(side: Side) -> None:
    steps = (
        Step("fails", "sh -c 'echo {word}; exit 3'"),
        Step("passes", "sh -c 'echo again'"),
    )
    outcomes = dict(run_steps(side, steps, {"word": "no"}))
    assert [(name, outcome.result, outcome.detail) for name, outcome in outcomes.items()] == [
        ("fails", Result.FAILED, "no"),
        ("passes", Result.PASSED, "again"),
    ]


def test_a_program_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    ran = run(("sh", "-c", "echo begun; sleep 600 & wait"), os.environ, tmp_path, seconds=0.5)
    assert ran == Ran(HUNG, "begun")


def test_errors_stand_behind_the_output(tmp_path: Path) -> None:
    ran = run(("sh", "-c", "echo 1 >&2; printf 2; echo 3 >&2"), os.environ, tmp_path)
    assert ran == Ran(0, "2\n1\n3")


def test_a_server_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    words = ("sh", "-c", "echo no such thing >&2; exit 1")
    with (
        pytest.raises(SystemExit, match="no such thing"),
        serving(words, os.environ, tmp_path / "log", "ready"),
    ):
        pass
