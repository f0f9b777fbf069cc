"""The table of causes as data, and the page beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conformance.causes import CAUSES
from conformance.outcomes import MAY_LOSE, Cause, Kind, Result
from conformance.suites import SUITES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")
NAMES = [f"{cause.suite}: {cause.tests[0]}" for cause in CAUSES]


@pytest.mark.parametrize("cause", CAUSES, ids=NAMES)
def test_only_these_kinds_may_cost_a_test(cause: Cause) -> None:
    lost = cause.plain is Result.PASSED and cause.broker is not Result.PASSED
    assert not lost or cause.kind in MAY_LOSE


@pytest.mark.parametrize("cause", CAUSES, ids=NAMES)
def test_every_row_is_whole(cause: Cause) -> None:
    assert cause.suite in {suite.name for suite in SUITES}
    assert cause.tests
    assert cause.why.endswith(".")
    assert any(cause.says), "a row without any words would cover differences that nobody has seen"
    assert cause.plain is not cause.broker or cause.part is not None, "the rest would not be compared"
    assert (cause.rule is not None) is (cause.kind is Kind.RULE)


def test_no_test_has_two_rows() -> None:
    keys = [(cause.suite, test) for cause in CAUSES for test in cause.tests]
    assert len(keys) == len(set(keys))


def test_the_page_has_every_suite_and_leaves_nothing_unexplained() -> None:
    for suite in SUITES:
        assert re.search(rf"^\| {re.escape(suite.name)} \| \d+ \|", PAGE, re.MULTILINE), suite.name
    assert "**not known**" not in PAGE


def test_the_page_was_made_from_this_table() -> None:
    shown = set(re.findall(r"^\| [^|]+ \| `[^`]+` \| [a-z ]+ \| [a-z ]+ \| (.+) \|$", PAGE, re.MULTILINE))
    assert shown
    assert shown <= {cause.why + (f" Rule: `{cause.rule}`." if cause.rule else "") for cause in CAUSES}


def test_the_page_names_no_place_of_the_machine() -> None:
    assert not re.search(r"/(?:tmp|home|root|work|usr|opt)/|https?://", PAGE)
