"""Suites that are lists of commands: each command is a test, and has to end and say the same on both sides."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from conformance.masks import masked
from conformance.outcomes import Outcome, Result, TestId
from conformance.programs import HUNG, Ran
from conformance.sides import Side


@dataclass(frozen=True, slots=True)
class Step:
    """One command. `{words}` in `command` are filled in by the suite; the rest is split as a shell would.

    `equal`: two files that have to be equal afterwards. `same`: a file that has to be the same on both sides.
    `unordered`: what it prints are blocks, each begun by a line without indentation, whose order means nothing.
    """

    test: str
    command: str
    equal: tuple[str, str] | None = None
    same: str | None = None
    unordered: bool = False


def run_steps(
    side: Side, steps: Sequence[Step], words: Mapping[str, str]
) -> Iterator[tuple[TestId, Outcome]]:
    """Run the commands in their order, whatever becomes of each."""
    for step in steps:
        ran = side.run(*shlex.split(step.command.format_map(words)))
        yield TestId(step.test), judged(side, step, ran)


def judged(side: Side, step: Step, ran: Ran) -> Outcome:
    """What a command's end and its files mean."""
    told = masked(ran.told)
    if step.unordered:
        told = "\n".join(sorted(block.strip("\n") for block in re.split(r"\n(?=\S)", told)))
    result = _result(ran.code)
    if result is Result.PASSED and step.equal is not None:
        made, wanted = step.equal
        if _digest(side, made) != _digest(side, wanted):
            return Outcome(Result.FAILED, f"`{made}` is not `{wanted}`\n{told}")
    if result is Result.PASSED and step.same is not None:
        told += f"\n{step.same}: {_digest(side, step.same)}"
    return Outcome(result, told.strip())


def _digest(side: Side, name: str) -> str:
    path = side.directory / name
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no such file"


def _result(code: int) -> Result:
    if code == HUNG:
        return Result.HUNG
    if code < 0:
        return Result.CRASHED
    return Result.PASSED if code == 0 else Result.FAILED
