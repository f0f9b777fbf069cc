"""What is surely wrong with a policy that loads: few findings, each with a code (policy.md, section 4).

Looks at rules and at each `never`, not at HSMs; control points are `lint_points`' affair. What it says holds for every
machine: an HSM that a rule pins down by serial number and MKVP is at most one, because two domains of one card may not
share a master key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from keyvisor_policy.claims import allows
from keyvisor_policy.errors import Finding
from keyvisor_policy.lint_points import about_points
from keyvisor_policy.matching import secret_text
from keyvisor_policy.never import Never
from keyvisor_policy.pattern_index import PatternIndex
from keyvisor_policy.policy import Policy
from keyvisor_policy.prove import nevers
from keyvisor_policy.regions import of_description
from keyvisor_policy.rules import Pattern, Rule
from keyvisor_policy.strict_yaml.wording import shown

CODES: dict[str, str] = {
    "invalid": "the file does not load",
    "never-matches": "no HSM can match the rule",
    "never-met": "the rule wants more HSMs than can match it, or only one that an earlier rule has",
    "shadowed": "every HSM of the rule is one of an earlier rule's too, which has it first",
    "ambiguous-priority": "two rules want the same HSMs for different secrets, so that only their order decides",
    "rule-twice": "two rules want the same HSMs for the same secret",
    "no-effect": "the rule wants nothing that an earlier rule does not take anyway",
    "never-can-happen": "the policy allows what a `never` says can never be",
    "never-empty": "no HSM is as a `never` describes, so that it forbids nothing",
    "secret-twice": "one secret is given by its name in one rule and by its id in another",
    "secret-confused": "a rule has the name of a secret that is not its own",
    "point-never-matches": "the control point looks at something that no call which it names has",
    "point-never-decides": "another control point decides whatever the control point could",
    "allow-needless": "the control point allows what no profile of the policy denies",
}


@dataclass(frozen=True, slots=True)
class Remark:
    """A finding with its code, a key of CODES."""

    code: str
    finding: Finding

    def __str__(self) -> str:
        return f"{self.finding} [{self.code}]"


def check(policy: Policy) -> tuple[Remark, ...]:
    """Everything that is surely wrong with the policy, in the file's order."""
    remarks = [
        Remark(code, Finding(policy.source, rule.line, rule.column, message))
        for looked_at in (_alone, _pairs, _secrets)
        for rule, code, message in looked_at(policy.rules)
    ]
    remarks += [
        Remark(code, Finding(policy.source, never.line, never.column, message))
        for never, code, message in _nevers(policy)
    ]
    remarks += [
        Remark(code, Finding(policy.source, point.line, point.column, message))
        for point, code, message in about_points(policy)
    ]
    return tuple(sorted(remarks, key=lambda remark: (remark.finding.line, remark.finding.column)))


Said = tuple[Rule, str, str]


def _alone(rules: tuple[Rule, ...]) -> Iterator[Said]:
    for rule in rules:
        if rule.hsm.mode == "accel" and rule.hsm.mkvp is not None:
            yield (
                rule,
                "never-matches",
                f"{_named(rule)} asks an accelerator for an MKVP, which none has; remove `mkvp`",
            )
        elif _pinned(rule.hsm) and rule.count is not None and rule.count > 1:
            message = f"{_named(rule)} wants {rule.count} HSMs, but one card has its master key once; remove `serial`"
            yield rule, "never-met", message


def _pairs(rules: tuple[Rule, ...]) -> Iterator[Said]:
    """Each rule against the first of the rules before it that covers all its HSMs."""
    index = PatternIndex([rule.hsm for rule in rules])
    for number, later in enumerate(rules):
        first = index.first_covering(later.hsm)
        if first is not None and first < number:  # it covers itself, so that none behind it is the first
            code, message = _covered(rules[first], later)
            yield later, code, f"{_named(later)} {message}"


def _covered(earlier: Rule, later: Rule) -> tuple[str, str]:
    other = _named(earlier)
    same_secret = _secret_id(earlier) == _secret_id(later)
    if same_secret and _pinned(earlier.hsm):
        return "never-met", f"can match no HSM but the one that {other} has; remove one of them"
    if same_secret and earlier.count is None:
        return "no-effect", f"wants nothing that {other} does not take anyway; remove it"
    if earlier.hsm == later.hsm:
        if same_secret:
            return "rule-twice", f"wants what {other} wants; say it once, with `count`"
        return (
            "ambiguous-priority",
            f"wants the HSMs of {other}, so that only their order decides; tell them apart",
        )
    return "shadowed", f"can have no HSM that {other} does not want first; put the narrower rule first"


def _secrets(rules: tuple[Rule, ...]) -> Iterator[Said]:
    by_name = {
        rule.secret.name: rule for rule in reversed(rules) if rule.secret and rule.secret.name is not None
    }
    by_id = {rule.secret.id: rule for rule in by_name.values() if rule.secret}
    for rule in rules:
        if rule.secret is None:
            continue
        namer = by_id.get(rule.secret.id)
        if rule.secret.name is None and namer is not None and namer.secret is not None:
            text = secret_text(namer.secret)
            yield (
                rule,
                "secret-twice",
                f"{_named(rule)} gives by id the secret {text} of {_named(namer)}; give its name",
            )
        owner = by_name.get(rule.name)
        if owner is not None and owner is not rule and _secret_id(owner) != rule.secret.id:
            message = (
                f"{_named(rule)} is called like the secret of {_named(owner)} but has another; rename it"
            )
            yield rule, "secret-confused", message


def _nevers(policy: Policy) -> Iterator[tuple[Never, str, str]]:
    for never, proof in zip(policy.never, nevers(policy), strict=True):
        named = "`never`" if never.name is None else f"`never` {shown(never.name)}"
        if not of_description(never.hsm):
            yield (
                never,
                "never-empty",
                f"{named} describes no HSM there can be, so that it forbids nothing; widen it",
            )
        elif proof.counterexample is not None:
            words = f"{named} can happen: {allows(proof.counterexample)}; narrow the rule"
            yield never, "never-can-happen", words


def _pinned(hsm: Pattern) -> bool:
    return hsm.mode == "ep11" and hsm.serial is not None and hsm.mkvp is not None


def _secret_id(rule: Rule) -> bytes | None:
    return None if rule.secret is None else rule.secret.id


def _named(rule: Rule) -> str:
    return f"rule {shown(rule.name)}"
