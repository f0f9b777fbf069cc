"""The page: everything that differs is on it, what nobody knows the cause of too, and the same findings give the same page."""

from __future__ import annotations

from conformance.outcomes import Cause, Kind, Outcome, Result, TestId, judge
from conformance.report import Finding, page
from conformance.suites import SUITES

SUITE = SUITES[0]
PASSED = Outcome(Result.PASSED)


def _finding(plain: dict[str, Outcome], broker: dict[str, Outcome]) -> Finding:
    return Finding(
        SUITE,
        {TestId(name): outcome for name, outcome in plain.items()},
        {TestId(name): outcome for name, outcome in broker.items()},
    )


def _page(finding: Finding, *causes: Cause) -> str:
    return page([finding], judge(finding.differences, causes), {"SoftHSM": "2.6.1"})


def test_a_lost_test_without_a_cause_is_counted_and_said() -> None:
    lost = _finding({"file::Class::test_a": PASSED}, {"file::Class::test_a": Outcome(Result.CRASHED)})
    text = _page(lost)
    assert f"| {SUITE.name} | `test_a` | passed | crashed | **not known** |" in text
    assert "without a rule of the policy: 1." in text


def test_a_rule_of_the_policy_is_named_and_not_counted() -> None:
    lost = _finding({"a": PASSED}, {"a": Outcome(Result.FAILED, "CKR_MECHANISM_INVALID")})
    cause = Cause(
        SUITE.name,
        ("a",),
        Result.PASSED,
        Result.FAILED,
        Kind.RULE,
        "Only SHA-256 signs.",
        ("", "CKR_"),
        rule="sign",
    )
    text = _page(lost, cause)
    assert f"| {SUITE.name} | `a` | passed | failed | Only SHA-256 signs. Rule: `sign`. |" in text
    assert "without a rule of the policy: 0." in text


def test_what_neither_side_does_is_told_with_the_names_of_mechanisms() -> None:
    skipped = Outcome(Result.SKIPPED, "Skipped: Requires 4229, 4230")
    other = Outcome(Result.SKIPPED, "Skipped: Requires an additional PKCS#11 module")
    failed = Outcome(Result.FAILED, "Using AES\nerror: C_EncryptInit failed\nAborting.")
    outcomes = {"a": skipped, "b": skipped, "c": other, "d": failed}
    text = _page(_finding(outcomes, outcomes))
    assert "| 2 tests | skipped | `Requires AES_CBC_PAD, AES_CTR` |" in text
    assert "| 1 test | skipped | `Requires an additional PKCS#11 module` |" in text
    assert "| `d` | failed | `error: C_EncryptInit failed` |" in text


def test_the_same_findings_give_the_same_page() -> None:
    finding = _finding({"a": PASSED}, {"a": PASSED})
    assert _page(finding) == _page(finding)
