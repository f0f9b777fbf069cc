"""What can never happen, decided over all HSMs there can be and not over samples (policy.md, section 4, `prove`).

Three questions: can a `never` happen, is a rule shadowed, does one policy allow what another refuses. Each is
answered by regions: "no" with the number of cells that were looked at, "yes" with an HSM that the policy's own
`permit` and `assign` treat as is said. What is allowed is every association that some rule permits, and every
accelerator that some rule binds; priority and `count` decide among these and are no part of it.

Pure. Intervals and equalities keep it fast; only compliance names, which multiply, can make a proof long.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from keyvisor_policy.hsms import Hsm, SecretId
from keyvisor_policy.never import Never
from keyvisor_policy.pattern_index import PatternIndex
from keyvisor_policy.policy import Policy
from keyvisor_policy.region_index import Index
from keyvisor_policy.regions import Box, intersect, left_of, minus, of_description, of_pattern
from keyvisor_policy.rules import Pattern, Rule

MOST_REDUCED = 64  # rules that shadow another, of which the needless ones are left out


@dataclass(frozen=True, slots=True)
class Allowed:
    """Something that a policy allows: the first rule that does, and an HSM. The secret is the rule's."""

    rule: Rule
    hsm: Hsm

    @property
    def secret_id(self) -> SecretId | None:
        """The secret's id; None where an accelerator is bound."""
        return None if self.rule.secret is None else self.rule.secret.id


@dataclass(frozen=True, slots=True)
class Proof:
    """Proved where there is no `counterexample`; `cells` is how many were looked at."""

    cells: int
    counterexample: Allowed | None = None

    @property
    def proved(self) -> bool:
        return self.counterexample is None


@dataclass(frozen=True, slots=True)
class Shadow:
    """Whether a rule is shadowed: `alone` is an HSM that it has for itself, None where it is.

    Then `hsm` is one that it matches, and `by` are the earlier rules that match all of its HSMs together, in their
    order; nothing of both where no HSM can match the rule at all.
    """

    cells: int
    alone: Hsm | None
    hsm: Hsm | None = None
    by: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class _Numbered:
    number: int
    rule: Rule


def nevers(policy: Policy) -> tuple[Proof, ...]:
    """For each `never` whether it cannot happen, in their order.

    Proved: no rule's HSMs are described by it for its secret, so that `permit` allows and `assign` plans no such
    thing. Else the first rule that can, with an HSM for which `permit` names that rule.
    """
    indexes = _by_secret(policy.rules)
    return tuple(_never(never, indexes) for never in policy.never)


def shadowed(policy: Policy, rule: Rule) -> Shadow:
    """Whether each HSM that `rule` matches is matched by an earlier rule, not the same one for all, that one HSM meets.

    Such earlier rules have `count` 1 or `all`; one that wants more may stay unmet and let the HSM go, and proves
    nothing. Where the guest holds the secrets of all rules:

    * Shadowed: whenever `assign` gives the rule an HSM, the earlier rules that match it (`count` 1 or `all`) are met
      without. It only ever has what they leave, and among HSMs of which there is one it has none.
    * Not shadowed, and its own `count` is 1 or `all`: of an inventory with `alone` as its only HSM, `assign` gives
      that to the rule.
    """
    region = of_pattern(rule.hsm)
    if region is None:
        return Shadow(0, None)
    before = policy.rules[: policy.rules.index(rule)]
    takers = [
        (box, earlier)
        for earlier in before
        if earlier.count in (1, None)
        and (box := of_pattern(earlier.hsm)) is not None
        and intersect(region, box) is not None
    ]
    left = left_of(region, (box for box, _ in takers))
    if left.box is not None:
        return Shadow(left.cells, left.box.witness())
    return Shadow(left.cells, None, region.witness(), _needed(region, takers))


def implies(new: Policy, old: Policy) -> Proof:
    """Whether `new` allows nothing that `old` refuses; else the first of it, for which `new.permit` names the rule."""
    cells = 0
    for allowed, looked_at in _beyond(new, old):
        cells += looked_at
        if allowed is not None:
            return Proof(cells, allowed)
    return Proof(cells)


def equal(one: Policy, other: Policy) -> tuple[Proof, Proof]:
    """Whether both allow the same: that the first allows nothing the second refuses, and the reverse."""
    return implies(one, other), implies(other, one)


def newly_allowed(new: Policy, old: Policy) -> tuple[Allowed, ...]:
    """What `new` allows and `old` refuses: one example for each secret and one for accelerators, in `new`'s order."""
    examples: dict[SecretId | None, Allowed] = {}
    for allowed, _ in _beyond(new, old, examples):
        if allowed is not None:
            examples[allowed.secret_id] = allowed
    return tuple(examples.values())


def _never(never: Never, indexes: Mapping[SecretId | None, Index[_Numbered]]) -> Proof:
    asked = [index for secret, index in indexes.items() if never.secret is None or never.secret.id == secret]
    regions = of_description(never.hsm)
    meetings = [
        (what, common)
        for region in regions
        for index in asked
        for box, what in islice(index.meeting(region), 1)
        if (common := intersect(region, box)) is not None
    ]
    cells = sum(index.count(region.mode) for region in regions for index in asked)
    if not meetings:
        return Proof(cells)
    first, common = min(meetings, key=lambda meeting: meeting[0].number)
    return Proof(cells, Allowed(first.rule, common.witness()))


def _beyond(
    new: Policy, old: Policy, done: Container[SecretId | None] = ()
) -> Iterator[tuple[Allowed | None, int]]:
    """Rule by rule of `new` what `old` refuses, if anything, and how many cells were looked at.

    Secrets that are `done` by then are left out, and so is the second rule with the same secret and region.
    """
    indexes = _by_secret(old.rules)
    patterns = _patterns_by_secret(old.rules)
    seen: set[tuple[SecretId | None, Box]] = set()
    for what, box in _regions(new.rules):
        secret = _secret_of(what.rule)
        if secret in done or (secret, box) in seen:
            continue
        seen.add((secret, box))
        index = indexes.get(secret)
        if index is None:
            yield Allowed(what.rule, box.witness()), 1
        elif (
            patterns[secret].first_covering(what.rule.hsm) is not None
        ):  # one alone is the usual case, and found at once
            yield None, 1
        else:
            left = left_of(box, (there for there, _ in index.meeting(box)))
            yield (None if left.box is None else Allowed(what.rule, left.box.witness())), left.cells


def _by_secret(rules: Iterable[Rule]) -> dict[SecretId | None, Index[_Numbered]]:
    entries: dict[SecretId | None, list[tuple[Box, _Numbered]]] = {}
    for what, box in _regions(rules):
        entries.setdefault(_secret_of(what.rule), []).append((box, what))
    return {secret: Index(listed) for secret, listed in entries.items()}


def _patterns_by_secret(rules: Iterable[Rule]) -> dict[SecretId | None, PatternIndex]:
    listed: dict[SecretId | None, list[Pattern]] = {}
    for rule in rules:
        listed.setdefault(_secret_of(rule), []).append(rule.hsm)
    return {secret: PatternIndex(its) for secret, its in listed.items()}


def _regions(rules: Iterable[Rule]) -> Iterator[tuple[_Numbered, Box]]:
    for number, rule in enumerate(rules):
        box = of_pattern(rule.hsm)
        if box is not None:
            yield _Numbered(number, rule), box


def _secret_of(rule: Rule) -> SecretId | None:
    return None if rule.secret is None else rule.secret.id


def _needed(region: Box, takers: Sequence[tuple[Box, Rule]]) -> tuple[Rule, ...]:
    """Of rules that cover the region together: one that does alone, or those without which others would not."""
    for box, rule in takers:
        if not minus(region, box):
            return (rule,)
    kept = list(takers)
    for taker in reversed(takers) if len(takers) <= MOST_REDUCED else ():
        others = [one for one in kept if one is not taker]
        if left_of(region, (box for box, _ in others)).box is None:
            kept = others
    return tuple(rule for _, rule in kept)
