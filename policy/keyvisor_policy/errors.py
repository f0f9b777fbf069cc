"""What can go wrong with a policy.

    PolicyError
    ├── DocumentError      a file is not as it must be (carries every finding with its place)
    ├── InventoryRefused   no plan is made for these HSMs: an APQN or a card's master key is there twice
    ├── NotPermitted       no rule allows this association (carries why, rule by rule)
    └── Undecidable        what was to be proved is too large to be decided

`Finding` stands here because DocumentError is made of nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyvisor_policy.matching import Refusal

__all__ = ["DocumentError", "Finding", "InventoryRefused", "NotPermitted", "PolicyError", "Undecidable"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong in a file. `line` and `column` count from 1, columns in characters."""

    source: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        source = "".join(character if character.isprintable() else "?" for character in self.source)
        return f"{source}:{self.line}:{self.column}: {self.message}"


class PolicyError(Exception):
    """Base of everything this package raises on purpose."""


class DocumentError(PolicyError):
    """A file is not as it must be. `findings` holds everything that is wrong with it, in the file's order."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings: tuple[Finding, ...] = tuple(findings)
        super().__init__("\n".join(map(str, self.findings)))


class InventoryRefused(PolicyError):
    """No plan is made for these HSMs: an APQN, or a master key on one card, is there twice."""


class NotPermitted(PolicyError):
    """No rule allows this association. `refusals` has, for every rule in file order, what stands against it."""

    def __init__(self, summary: str, refusals: tuple[Refusal, ...]) -> None:
        super().__init__(summary)
        self.refusals = refusals


class Undecidable(PolicyError):
    """A proof would take more than is reasonable: says of what there is too much."""
