"""`keyvisor policy test`: runs the cases that travel with policies.

Prints what `trials` found, as lines, as JSON or as JUnit's XML; decides nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keyvisor_policy.cli_arguments import Files, Json
from keyvisor_policy.terminal import fail, print_json, printable

if TYPE_CHECKING:
    from keyvisor_policy.control_points import ControlPoint
    from keyvisor_policy.errors import Finding
    from keyvisor_policy.request_trials import Answered
    from keyvisor_policy.rules import Rule
    from keyvisor_policy.trials import Coverage, Trial


def run_cases(
    files: Files,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Also list the rules and control points that no case decides.")
    ] = False,
    as_json: Json = False,
    junit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", dir_okay=False, help="Also write the results as JUnit's XML."),
    ] = None,
) -> None:
    """Run the cases of policies and say what is not as they expect.

    Exit code 0: every case passed. 1: one failed, a file has no cases or does not load. 2: wrong command line.
    """
    tested = [_tested(file) for file in files]
    if junit is not None:
        _write_junit(junit, tested)
    if as_json:
        print_json({"files": [_value(one, coverage=coverage) for one in tested]})
    else:
        for one in tested:
            _print(one, coverage=coverage)
    if not all(one.passed for one in tested):
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class Tested:
    """A file and what came of its cases; `wrong` is what is wrong with the file itself.

    `points` says how many control points of its own it has.
    """

    source: str
    wrong: tuple[Finding, ...]
    trials: tuple[Trial, ...] = ()
    coverage: Coverage | None = None
    points: int = 0

    @property
    def passed(self) -> bool:
        """There are cases and all have passed."""
        return not self.wrong and all(trial.passed for trial in self.trials)


def _tested(file: Path) -> Tested:
    from keyvisor_policy.errors import DocumentError, Finding
    from keyvisor_policy.loading import load
    from keyvisor_policy.trials import coverage, run

    try:
        policy = load(file)
    except DocumentError as error:
        return Tested(str(file), error.findings)
    if not policy.cases:
        none = "no cases, so that nothing is tested; write some under `cases`"
        if policy.grammar == "pvapconfig":
            none = "no cases, a pvapconfig list can have none; convert it to a policy"
        return Tested(str(file), (Finding(str(file), 1, 1, none),))
    trials = run(policy)
    return Tested(str(file), (), trials, coverage(policy, trials), len(policy.own_points))


def _print(tested: Tested, *, coverage: bool) -> None:
    for finding in tested.wrong:
        print(f"error: {finding}", file=sys.stderr)
    if tested.wrong:
        return
    for trial in tested.trials:
        print(f"{'pass' if trial.passed else 'FAIL'}  {printable(trial.case.name)}")
        for difference in trial.differences:
            print(f"      {difference}")
    failed = sum(not trial.passed for trial in tested.trials)
    count = len(tested.trials)
    print(f"{printable(tested.source)}: {count} case{'s' * (count != 1)}, {failed or 'none'} failed")
    if coverage and tested.coverage is not None:
        for line in _coverage(tested, tested.coverage):
            print(line)


def _coverage(tested: Tested, coverage: Coverage) -> Iterator[str]:
    for rule in coverage.never_met:
        yield f"{_at(tested, rule)} is met in no case"
    for rule in coverage.never_kept_out:
        yield f"{_at(tested, rule)} is unmet or refused in no case"
    if not (coverage.never_met or coverage.never_kept_out):
        yield f"{printable(tested.source)}: every rule is met in a case, and unmet or refused in a case"
    for point in coverage.never_decides:
        yield f"{_at(tested, point)} decides in no case"
    if tested.points and not coverage.never_decides:
        yield f"{printable(tested.source)}: every control point decides in a case"


def _at(tested: Tested, one: Rule | ControlPoint) -> str:
    from keyvisor_policy.errors import Finding
    from keyvisor_policy.rules import Rule
    from keyvisor_policy.strict_yaml.wording import shown

    kind = "rule" if isinstance(one, Rule) else "control point"
    return str(Finding(tested.source, one.line, one.column, f"{kind} {shown(one.name)}"))


def _write_junit(path: Path, tested: list[Tested]) -> None:
    from keyvisor_policy.junit import Suite, report

    suites = [Suite(one.source, one.wrong, one.trials) for one in tested]
    try:
        path.write_bytes(report(suites))
    except OSError as error:
        fail(f"{path}: {error.strerror}; give a file that can be written")


def _value(tested: Tested, *, coverage: bool) -> dict[str, Any]:
    value: dict[str, Any] = {
        "file": tested.source,
        "passed": tested.passed,
        "errors": [_finding(finding) for finding in tested.wrong],
        "cases": [
            {
                "name": trial.case.name,
                "line": trial.case.line,
                "passed": trial.passed,
                "differences": [_finding(difference) for difference in trial.differences],
                "requests": [_request(answer) for answer in trial.answers],
            }
            for trial in tested.trials
        ],
    }
    if coverage and tested.coverage is not None:
        value["coverage"] = {
            "never_met": [_rule(rule) for rule in tested.coverage.never_met],
            "never_unmet_or_refused": [_rule(rule) for rule in tested.coverage.never_kept_out],
            "never_decides": [_rule(point) for point in tested.coverage.never_decides],
        }
    return value


def _finding(finding: Finding) -> dict[str, Any]:
    return {"line": finding.line, "column": finding.column, "message": finding.message}


def _request(answer: Answered) -> dict[str, Any]:
    """What was asked and expected, and what was decided; `found` is null where no HSM was there to be asked."""
    asked, explanation = answer.asked, answer.explanation
    found = None
    if explanation is not None:
        decision = explanation.answer.decision
        found = {
            "is": "allowed" if decision.allowed else "refused",
            "by": None if decision.point is None else decision.point.label,
            "origin": None if decision.point is None else decision.point.origin,
            "code": None if decision.allowed else explanation.answer.code,
        }
    return {
        "line": asked.line,
        "column": asked.column,
        "request": str(asked.question),
        "on": asked.question.on if explanation is None else explanation.question.on,
        "passed": answer.difference is None,
        "expected": {"is": "allowed" if asked.allowed else "refused", "by": asked.by},
        "found": found,
    }


def _rule(rule: Rule | ControlPoint) -> dict[str, Any]:
    return {"name": rule.name, "line": rule.line}
