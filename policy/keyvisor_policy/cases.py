"""Cases: the tests that travel with a policy, as values (policy.md, section 1).

A case gives HSMs and secrets and says what the policy must make of them. Running one is `trials`' affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keyvisor_policy.hsms import Holding, Hsm
from keyvisor_policy.questions import Question
from keyvisor_policy.rules import Secret

MAX_CASES = 1_000


@dataclass(frozen=True, slots=True)
class Named:
    """An HSM by its APQN, or a rule by its name, that an expectation names; and where, from 1."""

    name: str
    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True)
class Paired:
    """An HSM and a secret that an expectation names together; and where, from 1."""

    apqn: str
    secret: Secret
    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that an expectation asks and what comes of it; and where, from 1.

    Without `on` the question is for the one rule that the case's plan holds HSMs through. `by` is the label of the control
    point that decides; None says nothing about that.
    """

    question: Question
    allowed: bool
    by: str | None = None
    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must hold, all of it. `associate`, `bind` and `unmet` are None where the case says nothing about them.

    These are exact unless `partly`: what they do not name is not associated, not bound as an accelerator, or met.
    The others hold for what they name.
    """

    associate: tuple[Paired, ...] | None = None
    bind: tuple[Named, ...] | None = None
    unmet: tuple[Named, ...] | None = None
    unbound: tuple[Named, ...] = ()
    refuse: tuple[Paired, ...] = ()
    requests: tuple[Asked, ...] = ()
    partly: bool = False
    line: int = 1
    column: int = 1

    @property
    def empty(self) -> bool:
        """Whether nothing whatever could go against it."""
        said = (self.associate, self.bind, self.unmet)
        exact = not self.partly and any(one is not None for one in said)
        return not (exact or any(said) or self.unbound or self.refuse or self.requests)


@dataclass(frozen=True, slots=True)
class Case:
    """One case: the HSMs, the secrets that the guest holds, what HSMs are to it now, and what is expected."""

    name: str
    hsms: tuple[Hsm, ...]
    secrets: tuple[Secret, ...] = ()
    current: Mapping[str, Holding] = field(default_factory=dict, hash=False)
    expect: Expectation = Expectation()
    line: int = 1
    column: int = 1
