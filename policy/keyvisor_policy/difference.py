"""What changes from one policy to another: in the plan for given HSMs, in what may be at all, and in what may be asked.

Pure. Compares what is done to each HSM and for which rule; a rule is the same where its name is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from keyvisor_policy.hsms import Holding, Hsm, SecretId
from keyvisor_policy.matching import holds, mismatches, missing_secret, secret_text
from keyvisor_policy.plan import HsmOutcome, Plan, RuleOutcome
from keyvisor_policy.policy import NOTHING_HELD, Policy
from keyvisor_policy.prove import Allowed, newly_allowed
from keyvisor_policy.request_prove import AllowedRequest, requests_newly_allowed
from keyvisor_policy.rules import Rule
from keyvisor_policy.strict_yaml.wording import shown


@dataclass(frozen=True, slots=True)
class HsmChange:
    """What one HSM was to be and what it is to be now, and why."""

    was: HsmOutcome
    becomes: HsmOutcome
    reasons: tuple[str, ...]

    @property
    def apqn(self) -> str:
        return self.was.apqn


@dataclass(frozen=True, slots=True)
class RuleChange:
    """A rule that has what it wants under one policy and not under the other; `reason` is why where it has not."""

    name: str
    met: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """All that changes: HSMs in APQN order, rules in the new policy's, and an example for each secret that may now
    be on an HSM where it might not, or may no longer be where it might.

    `asked_allowed` has an example for each control point of the old policy that refused what may now be asked,
    `asked_refused` for each of the new one that refuses what might be.
    """

    hsms: tuple[HsmChange, ...]
    rules: tuple[RuleChange, ...]
    allowed: tuple[Allowed, ...]
    refused: tuple[Allowed, ...]
    asked_allowed: tuple[AllowedRequest, ...] = ()
    asked_refused: tuple[AllowedRequest, ...] = ()

    @property
    def same(self) -> bool:
        """Nothing changes: not for these HSMs, and not in what may be on any."""
        return not (
            self.hsms
            or self.rules
            or self.allowed
            or self.refused
            or self.asked_allowed
            or self.asked_refused
        )


def difference(
    old: Policy,
    new: Policy,
    hsms: Iterable[Hsm],
    secrets: Collection[SecretId],
    current: Mapping[str, Holding] = NOTHING_HELD,
) -> Difference:
    """What changes from `old` to `new` for these HSMs, and over all there can be.

    Raises as `Policy.assign` does, and Undecidable.
    """
    listed = tuple(hsms)
    before, after = (policy.assign(listed, secrets, current) for policy in (old, new))
    there = {hsm.apqn: hsm for hsm in listed}
    why = _Why(before, after, secrets)
    changes = (
        HsmChange(was, becomes, tuple(why.reasons(there[was.apqn], was.rule, becomes.rule)))
        for was, becomes in zip(before.hsms, after.hsms, strict=True)
        if _key(was) != _key(becomes)
    )
    return Difference(
        tuple(changes),
        tuple(_rule_changes(before, after)),
        newly_allowed(new, old),
        newly_allowed(old, new),
        requests_newly_allowed(new, old),
        requests_newly_allowed(old, new),
    )


class _Why:
    """Finds the reasons of a change in the fields that differ, else in who has the HSM."""

    def __init__(self, before: Plan, after: Plan, secrets: Collection[SecretId]) -> None:
        self._before = {outcome.rule.name: outcome for outcome in before.rules}
        self._after = {outcome.rule.name: outcome for outcome in after.rules}
        self._secrets = secrets

    def reasons(self, hsm: Hsm, was: Rule | None, becomes: Rule | None) -> Iterator[str]:
        if was is not None and becomes is not None and was.name == becomes.name:
            yield f"rule {shown(was.name)} had {_secret(was)} and has {_secret(becomes)}"
            return
        if was is not None:
            yield self._why_no_more(hsm, was, becomes)
        if becomes is not None:
            yield from self._why_not_before(hsm, becomes, was)

    def _why_no_more(self, hsm: Hsm, was: Rule, becomes: Rule | None) -> str:
        name, there = f"rule {shown(was.name)}", self._after.get(was.name)
        if there is None:
            return f"{name} is gone"
        found = self._against(hsm, there.rule)
        if found:
            return f"{name} now: {found}"
        return (
            f"{name} gives way to {shown(becomes.name)}"
            if becomes is not None
            else f"{name} now has {_served(there)}"
        )

    def _why_not_before(self, hsm: Hsm, becomes: Rule, was: Rule | None) -> Iterator[str]:
        name, there = f"rule {shown(becomes.name)}", self._before.get(becomes.name)
        if there is None:
            yield f"{name} is new"
            return
        found = self._against(hsm, there.rule)
        if found:
            yield f"{name} before: {found}"
        elif was is None:
            yield f"{name} had {_served(there)} before"

    def _against(self, hsm: Hsm, rule: Rule) -> str:
        found = list(mismatches(hsm, rule.hsm))
        if rule.secret is not None and not holds(rule, self._secrets):
            found.insert(0, missing_secret(rule.secret))
        return "; ".join(map(str, found))


def _rule_changes(before: Plan, after: Plan) -> Iterator[RuleChange]:
    was_met = {outcome.rule.name: outcome.met for outcome in before.rules}
    for outcome in after.rules:
        if outcome.met != was_met.get(outcome.rule.name, True):
            yield RuleChange(outcome.rule.name, outcome.met, "" if outcome.met else outcome.summary)


def _key(outcome: HsmOutcome) -> tuple[object, ...]:
    rule = outcome.rule
    if rule is None:
        return None, None, outcome.actions
    return rule.name, rule.secret.id if rule.secret else None, outcome.actions


def _secret(rule: Rule) -> str:
    return "no secret" if rule.secret is None else f"secret {secret_text(rule.secret)}"


def _served(outcome: RuleOutcome) -> str:
    return ", ".join(hsm.apqn for hsm in outcome.hsms) or "no HSM"
