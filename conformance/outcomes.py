"""What a test did on one side, and what it means that both sides did not do the same.

The pure part of a run: it compares, and holds differences against the table of known causes.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NewType

Suite = NewType("Suite", str)
TestId = NewType("TestId", str)


class Result(enum.Enum):
    """How a test ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CRASHED = "crashed"
    HUNG = "hung"
    ABSENT = "not there"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a test did on one side. `detail` is what it said: equal on both sides, or there is a difference."""

    result: Result
    detail: str = ""


ABSENT = Outcome(Result.ABSENT)


@dataclass(frozen=True, slots=True)
class Cause:
    """One row of the table: these tests end in these ways, because.

    `details` are texts that must occur in what the two sides said, plain side first, where the result alone does
    not tell enough. `rule` names the rule of the policy, where one is the cause: only then may a test that passes
    on plain SoftHSM not pass on the broker, unless what it tests is SoftHSM's own (`softhsm_only`).
    """

    suite: Suite
    tests: tuple[TestId, ...]
    plain: Result
    broker: Result
    why: str
    details: tuple[str, str] = ("", "")
    rule: str | None = None
    softhsm_only: bool = False
    without_pins: bool = False

    def explains(self, difference: Difference) -> bool:
        """Whether this row is about that difference and it is just what the row says."""
        return (
            difference.suite == self.suite
            and difference.test in self.tests
            and difference.plain.result is self.plain
            and difference.broker.result is self.broker
            and self.details[0] in difference.plain.detail
            and self.details[1] in difference.broker.detail
        )


@dataclass(frozen=True, slots=True)
class Difference:
    """A test that did not do the same on both sides, and the row that says why, if there is one."""

    suite: Suite
    test: TestId
    plain: Outcome
    broker: Outcome
    cause: Cause | None = None

    @property
    def lost(self) -> bool:
        """Whether the test passes on plain SoftHSM and not on the broker."""
        return self.plain.result is Result.PASSED and self.broker.result is not Result.PASSED
