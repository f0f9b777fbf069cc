"""What a test did on one side, what it means that the sides did not do the same, and whether that is explained.

The pure part of a run: it compares, and holds the differences against a table of causes that it is given.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NewType

SuiteName = NewType("SuiteName", str)
TestId = NewType("TestId", str)


class Result(enum.Enum):
    """How a test ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CRASHED = "crashed"
    HUNG = "hung"
    ABSENT = "did not run"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a test did on one side. `detail` is what it said: both have to be equal, or there is a difference."""

    result: Result
    detail: str = ""


_ABSENT = Outcome(Result.ABSENT)


@dataclass(frozen=True, slots=True)
class Difference:
    """A test that did not do the same on both sides."""

    suite: SuiteName
    test: TestId
    plain: Outcome
    broker: Outcome

    @property
    def lost(self) -> bool:
        """Whether the test passes on plain SoftHSM and not on the broker."""
        return self.plain.result is Result.PASSED and self.broker.result is not Result.PASSED


class Kind(enum.Enum):
    """What sort of cause a difference has. Only the first two may cost a test that plain SoftHSM passes."""

    RULE = "a rule of the policy, which the row names"
    SOFTHSM = "the test is about SoftHSM itself"
    IDENTITY = "both pass, and say which token they are"
    MENDED = "SoftHSM or p11-kit does wrong what the broker does right"


MAY_LOSE = frozenset((Kind.RULE, Kind.SOFTHSM))


@dataclass(frozen=True, slots=True)
class Cause:
    """One row of the table of causes: these tests of a suite end in these two ways, because.

    `says`: texts that have to occur in what the plain side and the broker said. `part`: a pattern of all that the row
    accounts for; what is left has to be the same on both sides, line by line, so that the row does not cover a new
    difference in an old place. Without it nothing is required of the rest. `rule`: the policy's rule, for a cause of
    that kind.
    """

    suite: SuiteName
    tests: tuple[str, ...]
    plain: Result
    broker: Result
    kind: Kind
    why: str
    says: tuple[str, str]
    part: re.Pattern[str] | None = None
    rule: str | None = None

    def explains(self, difference: Difference) -> bool:
        """Whether the row is about that difference, and the difference is just what the row says."""
        plain, broker = difference.plain, difference.broker
        return (
            difference.suite == self.suite
            and difference.test in self.tests
            and (plain.result, broker.result) == (self.plain, self.broker)
            and self.says[0] in plain.detail
            and self.says[1] in broker.detail
            and (self.part is None or _rest(plain, self.part) == _rest(broker, self.part))
        )


def _rest(outcome: Outcome, part: re.Pattern[str]) -> list[str]:
    return [line.rstrip() for line in part.sub("", outcome.detail).splitlines() if line.strip()]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The differences with their causes, and the tests for which a cause stands in the table and no difference was seen."""

    explained: tuple[tuple[Difference, Cause], ...]
    unexplained: tuple[Difference, ...]
    unseen: tuple[tuple[Cause, str], ...]

    @property
    def good(self) -> bool:
        """Whether the table says all that was seen, and nothing else."""
        return not self.unexplained and not self.unseen


def differences(
    suite: SuiteName, plain: Mapping[TestId, Outcome], broker: Mapping[TestId, Outcome]
) -> list[Difference]:
    """The tests that did not do the same, in the order of the plain side. One that ran on one side only differs."""
    compared = [
        Difference(suite, test, plain.get(test, _ABSENT), broker.get(test, _ABSENT))
        for test in dict.fromkeys((*plain, *broker))
    ]
    return [one for one in compared if one.plain != one.broker]


def judge(found: Iterable[Difference], causes: Sequence[Cause]) -> Verdict:
    """Hold what was found against the table."""
    explained: list[tuple[Difference, Cause]] = []
    unexplained: list[Difference] = []
    for difference in found:
        cause = next((cause for cause in causes if cause.explains(difference)), None)
        if cause is None:
            unexplained.append(difference)
        else:
            explained.append((difference, cause))
    seen = {(cause, difference.test) for difference, cause in explained}
    unseen = [(cause, test) for cause in causes for test in cause.tests if (cause, TestId(test)) not in seen]
    return Verdict(tuple(explained), tuple(unexplained), tuple(unseen))
