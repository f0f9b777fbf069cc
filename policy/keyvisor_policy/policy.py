"""The policy: which HSMs a guest should have, and which association is allowed (policy.md, section 2).

Pure and deterministic: the same HSMs, secrets and holdings give the same plan, in whatever order they come.
The guest plans with it; the firmware asks it again at each association, and nothing else may allow one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Literal

from keyvisor_policy.assignment import Worth, assigned
from keyvisor_policy.bit_masks import by_value, members
from keyvisor_policy.cases import Case
from keyvisor_policy.control_points import NO_CONTROL_POINTS, ControlPoint, ControlPoints
from keyvisor_policy.errors import InventoryRefused, NotPermitted
from keyvisor_policy.hsm_index import HsmIndex
from keyvisor_policy.hsms import Holding, Hsm, SecretId
from keyvisor_policy.matching import Refusal, holds, mismatches, other_secret
from keyvisor_policy.never import Never
from keyvisor_policy.pattern_index import PatternIndex
from keyvisor_policy.plan import Action, HsmOutcome, Plan, RuleOutcome, Seen
from keyvisor_policy.rules import Rule
from keyvisor_policy.strict_yaml.wording import shown

NOTHING_HELD: Mapping[str, Holding] = MappingProxyType({})


@dataclass(
    frozen=True
)  # without slots: the indexes are made once, at the first question, and are no part of the value
class Policy:
    """Rules in order of priority. `digest` is SHA-256 of the text that they were read from, 32 bytes.

    `never` is what the author says can never be; it allows and refuses nothing, `prove` decides it. `cases` are tests
    of the rules; no decision looks at them.
    """

    rules: tuple[Rule, ...]
    source: str
    digest: bytes = field(repr=False)
    grammar: Literal["keyvisor", "pvapconfig"] = "keyvisor"
    never: tuple[Never, ...] = ()
    cases: tuple[Case, ...] = ()
    control_points: ControlPoints = NO_CONTROL_POINTS

    def assign(
        self,
        hsms: Iterable[Hsm],
        secrets: Collection[SecretId],
        current: Mapping[str, Holding] = NOTHING_HELD,
    ) -> Plan:
        """The plan for these HSMs, in whatever order they come.

        `secrets` are the ids that the guest holds, `current` what HSMs are to the guest now, by APQN; one that is
        not there is unbound. Raises InventoryRefused for an APQN that comes twice, and for two usable ep11 domains
        of one card with the same master key.
        """
        preferred = accepted(hsms)
        held = frozenset(secrets)
        index = HsmIndex(preferred)
        matches = [index.matching(rule.hsm) if holds(rule, held) else 0 for rule in self.rules]
        worth = _worth(self.rules, matches, preferred, current)
        masks = assigned(matches, [rule.count for rule in self.rules], len(preferred), worth)
        return _plan(self.rules, masks, preferred, held, current)

    def permit(self, hsm: Hsm, secret_id: SecretId) -> Rule:
        """The first rule that allows associating the secret with this HSM. Raises NotPermitted with every reason."""
        mine = self._by_secret.get(secret_id)
        first = None if mine is None else mine.index.first_matching(hsm)
        if mine is not None and first is not None:
            return mine.rules[first]
        refusals = []
        for rule in self.rules:
            found = mismatches(hsm, rule.hsm)
            if rule.secret is None or rule.secret.id != secret_id:
                found = (other_secret(rule, secret_id), *found)
            refusals.append(Refusal(rule, found))
        raise NotPermitted(_summary(hsm, secret_id, refusals), tuple(refusals))

    def rules_for(self, hsm: Hsm) -> tuple[Rule, ...]:
        """The rules that this HSM matches now, in order of priority, whether or not the guest holds the secret."""
        return tuple(self.rules[number] for number in self._index.matching(hsm))

    @property
    def own_points(self) -> tuple[ControlPoint, ...]:
        """The control points that stand in the file itself, not those of profiles."""
        return tuple(point for point in self.control_points.points if point.profile is None)

    @cached_property
    def _index(self) -> PatternIndex:
        return PatternIndex([rule.hsm for rule in self.rules])

    @cached_property
    def _by_secret(self) -> Mapping[SecretId, _Indexed]:
        rules: dict[SecretId, list[Rule]] = {}
        for rule in self.rules:
            if rule.secret is not None:
                rules.setdefault(rule.secret.id, []).append(rule)
        return {
            secret: _Indexed(tuple(its), PatternIndex([rule.hsm for rule in its]))
            for secret, its in rules.items()
        }


@dataclass(frozen=True, slots=True)
class _Indexed:
    """The rules for one secret, and their patterns by the same numbers."""

    rules: tuple[Rule, ...]
    index: PatternIndex


def accepted(hsms: Iterable[Hsm]) -> tuple[Hsm, ...]:
    """The HSMs in order of preference: newest generation first, then lowest APQN. Raises InventoryRefused."""
    preferred = tuple(sorted(hsms, key=lambda hsm: (-hsm.generation, hsm.apqn)))
    apqns: set[str] = set()
    keys: dict[tuple[str, bytes], str] = {}
    for hsm in sorted(preferred, key=lambda hsm: hsm.apqn):
        if hsm.apqn in apqns:
            raise InventoryRefused(f"HSM {hsm.apqn} is there twice; name each HSM once")
        apqns.add(hsm.apqn)
        if hsm.mode != "ep11" or not hsm.online or hsm.mkvp is None:
            continue
        first = keys.setdefault((hsm.card, hsm.mkvp), hsm.apqn)
        if first != hsm.apqn:
            raise InventoryRefused(
                f"{first} and {hsm.apqn} are domains of one card with the same master key `{hsm.mkvp.hex()}`;"
                " detach one of them, spares belong on different cards"
            )
    return preferred


def _worth(
    rules: tuple[Rule, ...], matches: list[int], hsms: tuple[Hsm, ...], current: Mapping[str, Holding]
) -> Worth:
    """What each rule saves with which HSMs: one that needs nothing done outweighs any number that lack the association."""
    held = by_value(current.get(hsm.apqn) for hsm in hsms)
    held.pop(None, None)
    worth: dict[int, dict[int, int]] = {}
    for number, rule in enumerate(rules):
        for now, mask in held.items() if matches[number] else ():
            needs = _actions(rule, now)
            value = {(): len(hsms) + 1, ("associate",): 1}.get(needs)
            if value is not None and mask & matches[number]:
                worth.setdefault(number, {})[value] = (
                    worth.get(number, {}).get(value, 0) | mask & matches[number]
                )
    return worth


def _actions(rule: Rule | None, now: Holding | None) -> tuple[Action, ...]:
    """What turns an HSM from what it is now into what the rule wants; without a rule, into an unbound one."""
    if rule is None:
        return () if now is None else ("unbind",)
    wanted = None if rule.secret is None else rule.secret.id
    if now is not None and not now.stuck and now.secret_id == wanted:
        return ()
    build: tuple[Action, ...] = ("bind",) if wanted is None else ("bind", "associate")
    if now is None:
        return build
    return build[1:] if now == Holding() else ("unbind", *build)


def _plan(
    rules: tuple[Rule, ...],
    masks: tuple[int, ...],
    hsms: tuple[Hsm, ...],
    secrets: frozenset[SecretId],
    current: Mapping[str, Holding],
) -> Plan:
    served = {hsms[hsm].apqn: rule for rule, mask in zip(rules, masks, strict=True) for hsm in members(mask)}
    apqns = sorted({hsm.apqn for hsm in hsms} | set(current))
    outcomes = {
        apqn: HsmOutcome(apqn, served.get(apqn), _actions(served.get(apqn), current.get(apqn)))
        for apqn in apqns
    }
    seen = Seen(tuple(sorted(hsms, key=lambda hsm: hsm.apqn)), secrets, served)
    by_rule = tuple(
        RuleOutcome(rule, tuple(outcomes[hsms[hsm].apqn] for hsm in members(mask)), seen)
        for rule, mask in zip(rules, masks, strict=True)
    )
    return Plan(by_rule, tuple(outcomes.values()))


def _summary(hsm: Hsm, secret_id: SecretId, refusals: list[Refusal]) -> str:
    """One line: what was asked, and what stands against it in the rule that lacks least."""
    name = next(
        (r.rule.secret.name for r in refusals if r.rule.secret and r.rule.secret.id == secret_id), None
    )
    secret = shown(name) if name is not None else f"with id `{secret_id.hex()}`"
    head = f"no rule allows secret {secret} on {hsm.apqn}"
    if not refusals:
        return f"{head}: the policy has no rules"
    for_secret = [r for r in refusals if all(mismatch.field != "secret" for mismatch in r.mismatches)]
    closest = min(for_secret or refusals, key=lambda refusal: len(refusal.mismatches))
    others = len(refusals) - 1
    rest = (
        f"; nor {'does the other rule' if others == 1 else f'do the {others} other rules'}" if others else ""
    )
    return f"{head}: {closest}{rest}"
