"""A plan: what each rule gets, what is to be done to each HSM, and why a rule is unmet. Values without decisions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count, islice
from typing import Literal, TypeAlias

from keyvisor_policy.bit_masks import Tally, by_value, members
from keyvisor_policy.hsm_index import HsmIndex
from keyvisor_policy.hsms import Holding, Hsm, SecretId
from keyvisor_policy.matching import Mismatch, holds, mismatches, missing_secret
from keyvisor_policy.rules import Rule
from keyvisor_policy.strict_yaml.wording import shown

Action: TypeAlias = Literal["unbind", "bind", "associate"]

SUMMARY_HSMS = 3  # how many HSMs a summary gives reasons for


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do to one HSM. `secret_id` goes with `associate`, and only with it."""

    action: Action
    apqn: str
    secret_id: SecretId | None = None


@dataclass(frozen=True, slots=True)
class HsmOutcome:
    """What becomes of one HSM: the rule that it serves, if any, and what must be done for it, in order.

    With a rule and no actions it is kept as it stands; with neither it stays unbound.
    """

    apqn: str
    rule: Rule | None
    actions: tuple[Action, ...] = ()

    @property
    def kept(self) -> bool:
        """It already is what its rule wants."""
        return self.rule is not None and not self.actions


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a rule does not have an HSM (`apqn`), or any HSM (`apqn` is None)."""

    apqn: str | None
    mismatch: Mismatch

    def __str__(self) -> str:
        return f"{self.mismatch}" if self.apqn is None else f"{self.apqn}: {self.mismatch}"


@dataclass(frozen=True, slots=True)
class RuleOutcome:
    """What one rule gets: its HSMs in order of preference, and whether that is what it wants."""

    rule: Rule
    hsms: tuple[HsmOutcome, ...]
    _seen: Seen = field(repr=False, compare=False)

    @property
    def met(self) -> bool:
        """It has all HSMs that it wants, or at least one where it takes every match."""
        return len(self.hsms) >= (1 if self.rule.count is None else self.rule.count)

    @property
    def kept(self) -> tuple[str, ...]:
        """The APQNs that need nothing done."""
        return tuple(outcome.apqn for outcome in self.hsms if outcome.kept)

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """Why an unmet rule has no more HSMs: of the rule first, then of each HSM, field by field, in APQN order."""
        if self.met:
            return ()
        own = tuple(self._seen.own_reasons(self.rule))
        return (*own, *self._seen.reasons(self.rule)) or (NO_MORE,)

    def likeliest(self, most: int) -> tuple[tuple[Reason, ...], int]:
        """Those `reasons` that tell most: the rule's own, else of the HSMs that lack least, and how many more HSMs
        there are with reasons; without looking at each HSM.
        """
        if self.met:
            return (), 0
        own = tuple(self._seen.own_reasons(self.rule))
        if own:
            return own, 0
        others, without = self._seen.nearest(self.rule, most)
        found = tuple(reason for hsm in others for reason in self._seen.against(self.rule, hsm))
        return found or (NO_MORE,), without

    @property
    def summary(self) -> str:
        """One line about an unmet rule: what it wants, what it has, and what stands against the likeliest HSMs."""
        wanted = 1 if self.rule.count is None else self.rule.count
        head = (
            f"rule {shown(self.rule.name)} wants {wanted} HSM{'s' * (wanted != 1)} and has {len(self.hsms)}"
        )
        return f"{head}: {_summed_up(*self.likeliest(SUMMARY_HSMS))}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a policy asks for. `rules` are in the policy's order, `hsms` in APQN order.

    `steps` can be executed in their order: what must go is unbound first, then each HSM is bound and associated,
    the HSMs of the first rule before those of the second.
    """

    rules: tuple[RuleOutcome, ...]
    hsms: tuple[HsmOutcome, ...]

    @property
    def unmet(self) -> tuple[RuleOutcome, ...]:
        """The rules that do not get what they want."""
        return tuple(outcome for outcome in self.rules if not outcome.met)

    @property
    def met(self) -> bool:
        """Every rule gets what it wants."""
        return not self.unmet

    @property
    def steps(self) -> tuple[Step, ...]:
        """What is to be done, in an order in which it can be done."""
        unbind = [Step("unbind", outcome.apqn) for outcome in self.hsms if "unbind" in outcome.actions]
        rest = [step for rule in self.rules for outcome in rule.hsms for step in _building(outcome)]
        return (*unbind, *rest)


def unbinding(hsms: Iterable[Hsm], current: Mapping[str, Holding]) -> Plan:
    """The plan that unbinds every HSM that is bound, whatever the rules."""
    apqns = sorted({hsm.apqn for hsm in hsms} | set(current))
    return Plan((), tuple(HsmOutcome(apqn, None, ("unbind",) if apqn in current else ()) for apqn in apqns))


NO_MORE = Reason(None, Mismatch("count", "there are no more HSMs"))


@dataclass(frozen=True)  # without slots: the index is made at the first question, which may never come
class Seen:
    """What the plan was made from: enough to say why a rule is unmet, when somebody asks. HSMs are in APQN order."""

    hsms: tuple[Hsm, ...]
    secrets: frozenset[SecretId]
    serving: dict[str, Rule]

    def own_reasons(self, rule: Rule) -> Iterator[Reason]:
        """What stands against the rule whichever the HSM."""
        if rule.secret is not None and not holds(rule, self.secrets):
            yield Reason(None, missing_secret(rule.secret))
        if not self.hsms:
            yield Reason(None, Mismatch("hsm", "no HSM is there"))

    def reasons(self, rule: Rule) -> Iterator[Reason]:
        """What stands between the rule and each HSM."""
        for hsm in self.hsms:
            yield from self.against(rule, hsm)

    def against(self, rule: Rule, hsm: Hsm) -> Iterator[Reason]:
        """What stands between the rule and one HSM, field by field; else the rule that has it."""
        found = mismatches(hsm, rule.hsm)
        other = self.serving.get(hsm.apqn)
        if not found and other is not None and other is not rule:
            found = (Mismatch("hsm", f"serves the rule {shown(other.name)}"),)
        return (Reason(hsm.apqn, mismatch) for mismatch in found)

    def nearest(self, rule: Rule, most: int) -> tuple[list[Hsm], int]:
        """The HSMs that lack least, then in APQN order, and how many more lack something."""
        tally, lacking = Tally(), 0
        for _, failing in self._index.failing(rule.hsm):
            tally.add(failing)
            lacking |= failing
        busy = self._busy & ~self._having.get(id(rule), 0) & ~lacking
        tally.add(busy)
        lacking |= busy
        by_count = (at for times in count(1) for at in members(tally.counted(times, lacking)))
        total = lacking.bit_count()
        near = [self.hsms[at] for at in islice(by_count, min(most, total))]
        return near, total - len(near)

    @cached_property
    def _index(self) -> HsmIndex:
        return HsmIndex(self.hsms)

    @cached_property
    def _having(self) -> dict[int, int]:
        """Per rule, by its identity, the HSMs that serve it; as `against` tells rules apart."""
        return by_value(id(self.serving.get(hsm.apqn)) for hsm in self.hsms)

    @cached_property
    def _busy(self) -> int:
        return sum(1 << at for at, hsm in enumerate(self.hsms) if hsm.apqn in self.serving)


def _building(outcome: HsmOutcome) -> Iterator[Step]:
    secret = outcome.rule.secret if outcome.rule is not None else None
    if "bind" in outcome.actions:
        yield Step("bind", outcome.apqn)
    if "associate" in outcome.actions and secret is not None:
        yield Step("associate", outcome.apqn, secret.id)


def _summed_up(reasons: tuple[Reason, ...], more: int) -> str:
    """As in: 03.0011: serial differs, offline; 04.0011: serves the rule `a`; 2 more do not match either."""
    by_hsm: dict[str, list[str]] = {}
    for reason in reasons:
        if reason.apqn is not None:
            by_hsm.setdefault(reason.apqn, []).append(str(reason.mismatch))
    own = [str(reason) for reason in reasons if reason.apqn is None]
    parts = [*own, *(f"{apqn}: {', '.join(found)}" for apqn, found in by_hsm.items())]
    return "; ".join([*parts, f"{more} more do not match either"] if more else parts)
