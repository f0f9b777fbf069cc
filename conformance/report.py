"""docs/conformance.md: what a run found, as a page. The same findings give the same page: no dates, no paths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from conformance.masks import MASKS
from conformance.outcomes import (
    MAY_LOSE,
    Cause,
    Difference,
    Kind,
    Outcome,
    Result,
    TestId,
    Verdict,
    differences,
)
from conformance.suites import Suite

_MOST: Final = 110  # characters of what a test said


@dataclass(frozen=True, slots=True)
class Finding:
    """What one suite did on both sides."""

    suite: Suite
    plain: Mapping[TestId, Outcome]
    broker: Mapping[TestId, Outcome]

    @property
    def differences(self) -> list[Difference]:
        """The tests that did not do the same."""
        return differences(self.suite.name, self.plain, self.broker)


def page(findings: Sequence[Finding], verdict: Verdict, versions: Mapping[str, str]) -> str:
    """The whole page, in Markdown."""
    parts = [
        _head(versions),
        _totals(findings),
        _differences(verdict),
        _alike(findings),
        _masks(),
    ]
    return "\n".join(line for part in parts for line in part)


_HEAD: Final = """\
# Conformance

Made by `make conformance`, which runs other people's programs against the same stock client (`p11-kit-client.so`)
twice: on the *plain* side it leads to SoftHSM behind `p11-kit server`, on the *broker*'s to a guest whose HSM is
associated, under a real `keyvisor up`. Every suite meets a fresh token on either side, with the same label and the
same PINs. The command fails on a difference whose cause does not stand in `conformance/causes.py`, and on a cause
whose difference is gone.
"""


def _head(versions: Mapping[str, str]) -> Iterable[str]:
    yield _HEAD
    yield "Releases: " + ", ".join(f"{name} {release}" for name, release in versions.items()) + "."
    yield ""


def _totals(findings: Sequence[Finding]) -> Iterable[str]:
    yield "| suite | tests | plain | broker | differences |"
    yield "|---|---|---|---|---|"
    for one in findings:
        sides = " | ".join(_counts(side) for side in (one.plain, one.broker))
        yield f"| {one.suite.name} | {len({*one.plain, *one.broker})} | {sides} | {len(one.differences)} |"
    yield ""
    for one in findings:
        yield f"* **{one.suite.name}.** {one.suite.about}"
    yield ""


def _counts(outcomes: Mapping[TestId, Outcome]) -> str:
    counted = Counter(outcome.result for outcome in outcomes.values())
    return ", ".join(f"{counted[result]} {result.value}" for result in Result if counted[result])


def _differences(verdict: Verdict) -> Iterable[str]:
    yield "## Differences"
    yield ""
    yield "One row per test that did not do the same on both sides; where both end alike, what they print differs."
    yield f"Tests that pass on the plain side and not on the broker's, without a rule of the policy: {_lost(verdict)}."
    yield f"Beside them, of tests that are for SoftHSM only: {_lost_of_softhsm(verdict)}."
    yield ""
    yield "| suite | test | plain | broker | cause |"
    yield "|---|---|---|---|---|"
    for difference, cause in verdict.explained:
        yield _row(difference, cause)
    for difference in verdict.unexplained:
        yield _row(difference, None)
    yield ""


def _lost(verdict: Verdict) -> int:
    known = [one for one, cause in verdict.explained if cause.kind not in MAY_LOSE]
    return sum(difference.lost for difference in (*known, *verdict.unexplained))


def _lost_of_softhsm(verdict: Verdict) -> int:
    return sum(one.lost for one, cause in verdict.explained if cause.kind is Kind.SOFTHSM)


def _row(difference: Difference, cause: Cause | None) -> str:
    why = "**not known**" if cause is None else cause.why + (f" Rule: `{cause.rule}`." if cause.rule else "")
    plain, broker = difference.plain.result.value, difference.broker.result.value
    return f"| {difference.suite} | `{_short(difference.test)}` | {plain} | {broker} | {why} |"


def _short(test: TestId) -> str:
    """A test's name without the file and class of python-pkcs11."""
    return test.rpartition("::")[2]


def _alike(findings: Sequence[Finding]) -> Iterable[str]:
    yield "## What neither side does"
    yield ""
    yield "These end in the same way on both sides, and do not pass: the stock client does not carry the mechanism (*skipped*,"
    yield "or `CKR_MECHANISM_INVALID`), SoftHSM or the program cannot do it, or it has to be refused."
    yield ""
    yield "| suite | test | ends | because |"
    yield "|---|---|---|---|"
    for one in findings:
        yield from _alike_of(one)
    yield ""


def _alike_of(one: Finding) -> Iterable[str]:
    skipped: Counter[str] = Counter()
    for test, outcome in one.plain.items():
        if outcome.result is Result.PASSED or one.broker.get(test) != outcome:
            continue
        if outcome.result is Result.SKIPPED:
            skipped[_reason(outcome.detail)] += 1
        else:
            yield f"| {one.suite.name} | `{_short(test)}` | {outcome.result.value} | {_cell(_said(outcome.detail))} |"
    for reason, count in sorted(skipped.items()):
        yield f"| {one.suite.name} | {count} {'test' if count == 1 else 'tests'} | skipped | {_cell(reason)} |"


def _reason(detail: str) -> str:
    """Why a test was skipped, its mechanisms by their names instead of their numbers."""
    from pkcs11 import Mechanism

    reason = detail.removeprefix("Skipped: ")
    if re.fullmatch(r"Requires [\d, ]+", reason):
        return re.sub(r"\d+", lambda number: Mechanism(int(number[0])).name, reason)
    return reason


def _said(detail: str) -> str:
    """The line that says why: the first one with an error in it, else the last one."""
    lines = [line.strip() for line in detail.splitlines() if line.strip()]
    errors = [line for line in lines if re.search("error|failed|not found|CKR_", line, re.IGNORECASE)]
    return (errors or lines[-1:] or [""])[0][:_MOST]


def _cell(text: str) -> str:
    return "`" + text.replace("|", "\\|").replace("`", "'") + "`" if text else ""


def _masks() -> Iterable[str]:
    yield "## What is not compared"
    yield ""
    yield "What commands print is compared whole, after this has been taken out:"
    yield ""
    for mask in MASKS:
        yield f"* {mask.why}"
    yield ""
