"""What `prove` answers, asked of z3: the rules and each `never` as formulas about one HSM that nobody knows.

Written from policy.md (sections 1 and 2), not from `regions`: it shares only the model's values with what it is to check.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import z3

from keyvisor_policy import Interval, Never, Pattern, Policy, Rule, SecretId
from keyvisor_policy.hsms import NEWEST_GENERATION, OLDEST_GENERATION
from keyvisor_policy.never import Description

EP11 = z3.Bool("ep11")  # else an accelerator
KEYED = z3.Bool("has a master key")
MKVP, SERIAL = z3.String("mkvp"), z3.String("serial")
GENERATION, API, MAJOR, MINOR = z3.Ints("generation api major minor")
THERE = z3.And(
    GENERATION >= OLDEST_GENERATION, GENERATION <= NEWEST_GENERATION, API >= 0, MAJOR >= 0, MINOR >= 0
)


def can_happen(policy: Policy, never: Never) -> bool:
    """Whether some rule's HSM, with its secret, is what the `never` describes."""
    rules = [rule for rule in policy.rules if never.secret is None or _secret(rule) == never.secret.id]
    return _satisfiable(z3.And(matches_any(rules), described(never.hsm)))


def allows_more(new: Policy, old: Policy) -> bool:
    """Whether `new` allows something that `old` refuses."""
    return any(
        _satisfiable(z3.And(matches_any(_for(new, secret)), z3.Not(matches_any(_for(old, secret)))))
        for secret in {_secret(rule) for rule in new.rules}
    )


def has_one_alone(policy: Policy, number: int) -> bool:
    """Whether a rule matches an HSM that no earlier rule with `count` 1 or `all` matches."""
    takers = [rule for rule in policy.rules[:number] if rule.count in (1, None)]
    return _satisfiable(z3.And(matches(policy.rules[number].hsm), z3.Not(matches_any(takers))))


def matches_any(rules: Iterable[Rule]) -> z3.BoolRef:
    return z3.Or(*(matches(rule.hsm) for rule in rules))


def matches(pattern: Pattern) -> z3.BoolRef:
    """That the HSM can be used and every field of the pattern matches."""
    said = [EP11 if pattern.mode == "ep11" else z3.Not(EP11), z3.Implies(EP11, KEYED)]
    if pattern.mkvp is not None:
        said.append(has_key(pattern.mkvp))
    if pattern.serial is not None:
        said.append(z3.StringVal(pattern.serial) == SERIAL)
    said += [
        within(GENERATION, pattern.generation),
        within(API, pattern.api),
        version_within(pattern.firmware),
    ]
    return z3.And(*said, *map(z3.Bool, pattern.compliance))


def described(hsm: Description) -> z3.BoolRef:
    """That the HSM is as a `never` describes it."""
    said = [] if hsm.mode is None else [EP11 if hsm.mode == "ep11" else z3.Not(EP11)]
    if hsm.mkvp is not None:
        said.append(has_key(hsm.mkvp.value) != hsm.mkvp.but)
    if hsm.serial is not None:
        said.append((z3.StringVal(hsm.serial.value) == SERIAL) != hsm.serial.but)
    for variable, wanted in ((GENERATION, hsm.generation), (API, hsm.api)):
        if wanted is not None:
            said.append(within(variable, wanted.value) != wanted.but)
    if hsm.firmware is not None:
        said.append(version_within(hsm.firmware.value) != hsm.firmware.but)
    return z3.And(*said, *map(z3.Bool, hsm.present), *(z3.Not(z3.Bool(name)) for name in hsm.absent))


def has_key(mkvp: bytes) -> z3.BoolRef:
    return z3.And(KEYED, z3.StringVal(mkvp.hex()) == MKVP)


def within(value: z3.ArithRef, interval: Interval[int] | None) -> z3.BoolRef:
    low, high = (None, None) if interval is None else (interval.lowest, interval.highest)
    return z3.And(True if low is None else value >= low, True if high is None else value <= high)


def version_within(interval: Interval[tuple[int, int]] | None) -> z3.BoolRef:
    low, high = (None, None) if interval is None else (interval.lowest, interval.highest)
    return z3.And(
        True if low is None else z3.Or(low[0] < MAJOR, z3.And(low[0] == MAJOR, low[1] <= MINOR)),
        True if high is None else z3.Or(high[0] > MAJOR, z3.And(high[0] == MAJOR, high[1] >= MINOR)),
    )


def _for(policy: Policy, secret: SecretId | None) -> list[Rule]:
    return [rule for rule in policy.rules if _secret(rule) == secret]


def _secret(rule: Rule) -> SecretId | None:
    return None if rule.secret is None else rule.secret.id


def _satisfiable(formula: Any) -> bool:
    solver = z3.Solver()
    solver.add(THERE, formula)
    answer = solver.check()
    assert answer != z3.unknown, "z3 does not know"
    return bool(answer == z3.sat)
