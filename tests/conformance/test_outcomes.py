"""Comparing the sides, and holding differences against the table: nothing is explained that the table does not say exactly."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from conformance.outcomes import (
    Cause,
    Difference,
    Kind,
    Outcome,
    Result,
    SuiteName,
    TestId,
    differences,
    judge,
)

SUITE = SuiteName("suite")
PASSED = Outcome(Result.PASSED, "as it should")
FAILED = Outcome(Result.FAILED, "CKR_DEVICE_ERROR")
LOST = Difference(SUITE, TestId("a test"), PASSED, FAILED)
CAUSE = Cause(
    SUITE,
    ("a test",),
    Result.PASSED,
    Result.FAILED,
    Kind.RULE,
    "the rule forbids it",
    says=("should", "CKR_DEVICE_ERROR"),
    rule="no-signatures",
)
LABELS = re.compile("^label: .*$", re.MULTILINE)


def _ids(*names: str) -> dict[TestId, Outcome]:
    return {TestId(name): PASSED for name in names}


def test_the_same_on_both_sides_is_no_difference() -> None:
    assert differences(SUITE, _ids("a", "b"), _ids("b", "a")) == []


def test_another_result_differs() -> None:
    assert differences(SUITE, {TestId("a test"): PASSED}, {TestId("a test"): FAILED}) == [LOST]


def test_the_same_result_with_other_words_differs() -> None:
    other = Outcome(Result.PASSED, "in another way")
    found = differences(SUITE, {TestId("a"): PASSED}, {TestId("a"): other})
    assert [one.broker for one in found] == [other]
    assert not found[0].lost


@pytest.mark.parametrize(("plain", "broker"), [(("a",), ()), ((), ("a",))])
def test_a_test_of_one_side_only_differs(plain: tuple[str, ...], broker: tuple[str, ...]) -> None:
    (found,) = differences(SUITE, _ids(*plain), _ids(*broker))
    assert Result.ABSENT in (found.plain.result, found.broker.result)
    assert found.lost is bool(plain)


def test_differences_come_in_the_order_of_the_plain_side() -> None:
    plain, broker = _ids("z", "a"), {TestId("a"): FAILED, TestId("n"): PASSED, TestId("z"): FAILED}
    assert [one.test for one in differences(SUITE, plain, broker)] == ["z", "a", "n"]


def test_a_known_difference_is_explained() -> None:
    verdict = judge([LOST], [CAUSE])
    assert verdict.explained == ((LOST, CAUSE),)
    assert verdict.good


@pytest.mark.parametrize(
    "cause",
    [
        replace(CAUSE, suite=SuiteName("another suite")),
        replace(CAUSE, tests=("another test",)),
        replace(CAUSE, plain=Result.FAILED),
        replace(CAUSE, broker=Result.SKIPPED),
        replace(CAUSE, says=("should not", "")),
        replace(CAUSE, says=("", "CKR_HOST_MEMORY")),
    ],
    ids=["suite", "test", "plain result", "broker result", "plain words", "broker words"],
)
def test_a_row_explains_only_what_it_says(cause: Cause) -> None:
    verdict = judge([LOST], [cause])
    assert verdict.unexplained == (LOST,)
    assert not verdict.good


@pytest.mark.parametrize(
    ("broker", "explained"),
    [
        ("label: b\nsize: 1\n", True),
        ("label: b\n\nsize: 1", True),
        ("label: b\nsize: 2\n", False),
        ("label: b\n", False),
        ("label: b\nsize: 1\nsize: 1\n", False),
    ],
)
def test_what_a_row_does_not_account_for_has_to_be_the_same(broker: str, *, explained: bool) -> None:
    plain = Outcome(Result.PASSED, "label: a\nsize: 1\n")
    found = Difference(SUITE, TestId("a test"), plain, Outcome(Result.PASSED, broker))
    cause = replace(CAUSE, broker=Result.PASSED, kind=Kind.IDENTITY, says=("a", "b"), part=LABELS, rule=None)
    assert judge([found], [cause]).good is explained


def test_a_row_whose_difference_is_gone_is_told() -> None:
    cause = replace(CAUSE, tests=("a test", "a test that went well"))
    verdict = judge([LOST], [cause])
    assert verdict.unseen == ((cause, "a test that went well"),)
    assert not verdict.good
