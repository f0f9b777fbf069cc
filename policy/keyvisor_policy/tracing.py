"""How a rule looks at an HSM: each field, what is wanted, what is found, and whether that holds.

The trace behind `policy explain` and behind a failed case. `matching` decides, this shows what it looked at; a test
holds both together. Knows no plan.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from keyvisor_policy.hsms import Hsm, SecretId, generation_name, version_name
from keyvisor_policy.matching import (
    generations_text,
    holds,
    mismatches,
    missing_secret,
    numbers_text,
    other_secret,
    versions_text,
)
from keyvisor_policy.plan import RuleOutcome
from keyvisor_policy.rules import Rule
from keyvisor_policy.strict_yaml.wording import shown

ANY_MASTER_KEY = "a valid master key"


@dataclass(frozen=True, slots=True)
class Looked:
    """One field that a rule looks at."""

    field: str
    wanted: str
    found: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Trace:
    """One rule: every field that it looks at, in the grammar's order, and what came of the rule, in words."""

    rule: Rule
    looked: tuple[Looked, ...]
    outcome: str

    @property
    def holds(self) -> bool:
        """Whether every field does."""
        return all(looked.holds for looked in self.looked)


def look(rule: Rule, hsm: Hsm) -> Iterator[Looked]:
    """Every field that the rule looks at in the HSM, the secret left aside."""
    pattern, mkvp = rule.hsm, None if hsm.mkvp is None else hsm.mkvp.hex()
    yield Looked("online", "online", "online" if hsm.online else "offline", hsm.online)
    yield Looked("mode", pattern.mode, hsm.mode, pattern.mode == hsm.mode)
    if pattern.mkvp is not None:
        yield Looked("mkvp", pattern.mkvp.hex(), mkvp or "none", pattern.mkvp == hsm.mkvp)
    elif pattern.mode == "ep11":
        yield Looked("mkvp", ANY_MASTER_KEY, mkvp or "none", mkvp is not None)
    if pattern.serial is not None:
        yield Looked("serial", pattern.serial, hsm.serial or "none", pattern.serial == hsm.serial)
    if pattern.generation is not None:
        found = generation_name(hsm.generation)
        yield Looked(
            "generation", generations_text(pattern.generation), found, hsm.generation in pattern.generation
        )
    if pattern.firmware is not None:
        found = version_name(hsm.firmware)
        yield Looked("firmware", versions_text(pattern.firmware), found, hsm.firmware in pattern.firmware)
    if pattern.api is not None:
        yield Looked("api", numbers_text(pattern.api), str(hsm.api), hsm.api in pattern.api)
    if pattern.compliance:
        wanted, found = (", ".join(sorted(names)) for names in (pattern.compliance, hsm.compliance))
        yield Looked("compliance", wanted, found or "none", pattern.compliance <= hsm.compliance)


def look_at_secret(rule: Rule, asked: SecretId, given: str) -> Looked:
    """Whether the secret that is asked for, which a reader knows as `given`, is the rule's."""
    wanted = "none" if rule.secret is None else _plain(rule)
    return Looked("secret", wanted, given, rule.secret is not None and rule.secret.id == asked)


def look_at_store(rule: Rule, held: Collection[SecretId]) -> Iterator[Looked]:
    """Whether the guest holds the rule's secret, if it has one."""
    if rule.secret is not None:
        there = holds(rule, held)
        yield Looked("secret", _plain(rule), "held" if there else "not held", there)


def against(rule: Rule, hsm: Hsm, held: Collection[SecretId]) -> str:
    """What stands between the rule and the HSM, in words; nothing where the rule could have it."""
    found = mismatches(hsm, rule.hsm)
    if rule.secret is not None and not holds(rule, held):
        found = (missing_secret(rule.secret), *found)
    return "; ".join(map(str, found))


def passed_over(outcome: RuleOutcome, serves: Rule | None) -> str:
    """Why a rule that could have an HSM has not: it has others enough, or the HSM `serves` another rule."""
    if serves is None or len(outcome.hsms) == outcome.rule.count:
        return f"has all that it wants: {', '.join(hsm.apqn for hsm in outcome.hsms)}"
    return f"the HSM serves the rule {shown(serves.name)}"


def against_secret(rule: Rule, hsm: Hsm, asked: SecretId) -> str:
    """What stands between the rule and associating the secret with the HSM, in words."""
    found = mismatches(hsm, rule.hsm)
    if rule.secret is None or rule.secret.id != asked:
        found = (other_secret(rule, asked), *found)
    return "; ".join(map(str, found))


def _plain(rule: Rule) -> str:
    if rule.secret is None:
        return "none"
    return rule.secret.name if rule.secret.name is not None else f"0x{rule.secret.id.hex()}"
