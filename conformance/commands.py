"""Suites that are lists of commands: each command is a test, and has to end and say the same on both sides."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from conformance.outcomes import Outcome, Result, TestId
from conformance.programs import HUNG, Ran
from conformance.sides import Side

Normalise = Callable[[str], str]


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
    side: Side, steps: Sequence[Step], words: Mapping[str, str], normalise: Normalise
) -> Iterator[tuple[TestId, Outcome]]:
    """Run the commands in their order, whatever becomes of each."""
    for step in steps:
        ran = side.run(*shlex.split(step.command.format_map(words)))
        yield TestId(step.test), judged(side, step, ran, normalise)


def judged(side: Side, step: Step, ran: Ran, normalise: Normalise) -> Outcome:
    """What a command's end and its files mean."""
    lines = normalise(ran.told)
    told = "\n".join(_blocks(lines)) if step.unordered else lines
    result = _result(ran.code)
    if result is Result.PASSED and step.equal is not None:
        first, second = (side.directory / name for name in step.equal)
        if first.read_bytes() != second.read_bytes():
            return Outcome(Result.FAILED, f"`{step.equal[0]}` is not `{step.equal[1]}`\n{told}")
    if result is Result.PASSED and step.same is not None:
        told += f"\n{step.same}: {hashlib.sha256((side.directory / step.same).read_bytes()).hexdigest()}"
    return Outcome(result, told.strip())


def _result(code: int) -> Result:
    if code == HUNG:
        return Result.HUNG
    if code < 0:
        return Result.CRASHED
    return Result.PASSED if code == 0 else Result.FAILED


def _blocks(told: str) -> list[str]:
    return sorted(block.strip("\n") for block in re.split(r"\n(?=\S)", told))


# What differs from run to run: names of key material, handles, and what was drawn at random.
_LONG_HEX: Final = re.compile(r"\b[0-9a-f]{16,}\b", re.IGNORECASE)


def without_random(told: str) -> str:
    """The text with long hexadecimal numbers masked."""
    return _LONG_HEX.sub("(hex)", told)
