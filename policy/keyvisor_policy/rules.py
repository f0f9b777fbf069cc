"""What a policy says, as values: the model that both file formats are compiled to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from keyvisor_policy.hsms import SecretId

T = TypeVar("T", int, tuple[int, int])

MAX_RULES = 10_000
MAX_NEVERS = 1_000
MAX_COUNT = 1 << 16  # there are no more APQNs


@dataclass(frozen=True, slots=True)
class Interval(Generic[T]):
    """All values from `lowest` to `highest`, both included; None is an open end."""

    lowest: T | None = None
    highest: T | None = None

    def __contains__(self, value: T) -> bool:
        return (self.lowest is None or self.lowest <= value) and (
            self.highest is None or value <= self.highest
        )

    def covers(self, other: Interval[T]) -> bool:
        """Whether every value of `other` is one of these."""
        low = self.lowest is None or (other.lowest is not None and self.lowest <= other.lowest)
        high = self.highest is None or (other.highest is not None and other.highest <= self.highest)
        return low and high


@dataclass(frozen=True, slots=True)
class Pattern:
    """What an HSM must be. None means any; `compliance` names what must be among the HSM's own.

    `mkvp` is 16 bytes. `mode` is never any: a rule with a secret is for ep11 HSMs, one without for accelerators.
    """

    mode: Literal["ep11", "accel"]
    mkvp: bytes | None = None
    serial: str | None = None
    generation: Interval[int] | None = None
    firmware: Interval[tuple[int, int]] | None = None
    api: Interval[int] | None = None
    compliance: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret as a rule names it: always by id, and by name where the rule gave one."""

    id: SecretId
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Which HSMs, how many of them, and which secret meets them. `secret` is None for accelerators, and only there.

    `count` is None where the rule takes every match. `line` and `column` say where the rule stands, from 1.
    """

    name: str
    hsm: Pattern
    secret: Secret | None
    count: int | None = 1
    line: int = 1
    column: int = 1
