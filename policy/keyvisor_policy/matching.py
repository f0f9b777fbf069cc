"""Does this HSM meet this rule, and if not, why: field by field (policy.md, section 2; patents, 2.4).

Pure. Looks at one HSM and one rule at a time; who gets what is decided in `assignment`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from keyvisor_policy.hsms import Hsm, SecretId, generation_name, version_name
from keyvisor_policy.rules import Interval, Pattern, Rule, Secret, T
from keyvisor_policy.strict_yaml.wording import shown


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing that stands between an HSM and a rule. `field` is the rule's word for it."""

    field: str
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why `rule` does not allow an association."""

    rule: Rule
    mismatches: tuple[Mismatch, ...]

    def __str__(self) -> str:
        return f"rule {shown(self.rule.name)}: {'; '.join(map(str, self.mismatches))}"


def usable(hsm: Hsm, pattern: Pattern) -> bool:
    """Whether the HSM can be used at all and every field matches, the secret left aside."""
    return (
        hsm.online
        and hsm.mode == pattern.mode
        and (hsm.mkvp is not None or pattern.mode != "ep11")
        and pattern.mkvp in (None, hsm.mkvp)
        and pattern.serial in (None, hsm.serial)
        and (pattern.generation is None or hsm.generation in pattern.generation)
        and (pattern.firmware is None or hsm.firmware in pattern.firmware)
        and (pattern.api is None or hsm.api in pattern.api)
        and pattern.compliance <= hsm.compliance
    )


def covers(wide: Pattern, narrow: Pattern) -> bool:
    """Whether every HSM that matches `narrow` matches `wide`."""
    return (
        wide.mode == narrow.mode
        and wide.mkvp in (None, narrow.mkvp)
        and wide.serial in (None, narrow.serial)
        and _interval_covers(wide.generation, narrow.generation)
        and _interval_covers(wide.firmware, narrow.firmware)
        and _interval_covers(wide.api, narrow.api)
        and wide.compliance <= narrow.compliance
    )


def mismatches(hsm: Hsm, pattern: Pattern) -> tuple[Mismatch, ...]:
    """Every field that differs, in the order of the grammar; empty exactly where `usable`."""
    return tuple(_mismatches(hsm, pattern))


def missing_secret(secret: Secret) -> Mismatch:
    """That the guest does not hold the rule's secret."""
    return Mismatch("secret", f"secret {secret_text(secret)} is not in the guest's store")


def other_secret(rule: Rule, wanted: SecretId) -> Mismatch:
    """That the rule is for another secret than the one that is to be associated."""
    if rule.secret is None:
        return Mismatch("secret", "the rule is for accelerators, which are bound and never associated")
    return Mismatch("secret", f"secret differs: {secret_text(rule.secret)} wanted, id `{wanted.hex()}` given")


def secret_text(secret: Secret) -> str:
    """The secret's name, or its id where the rule gives none."""
    return shown(secret.name) if secret.name is not None else f"with id `{secret.id.hex()}`"


def holds(rule: Rule, secrets: Collection[SecretId]) -> bool:
    """Whether the guest holds what the rule needs."""
    return rule.secret is None or rule.secret.id in secrets


def interval_text(lowest: str | None, highest: str | None) -> str:
    """An interval as the grammar writes it."""
    if lowest == highest:
        return f"=={lowest}"
    if lowest is None:
        return f"<={highest}"
    return f">={lowest}" if highest is None else f"{lowest}..{highest}"


def generations_text(interval: Interval[int]) -> str:
    """As in `>=CEX8`."""
    return interval_text(*(None if end is None else generation_name(end) for end in _ends(interval)))


def versions_text(interval: Interval[tuple[int, int]]) -> str:
    """As in `>=8.0`."""
    ends = (interval.lowest, interval.highest)
    return interval_text(*(None if end is None else version_name(end) for end in ends))


def numbers_text(interval: Interval[int]) -> str:
    """As in `>=4`."""
    return interval_text(*(None if end is None else str(end) for end in _ends(interval)))


def _mismatches(hsm: Hsm, pattern: Pattern) -> Iterator[Mismatch]:
    if not hsm.online:
        yield Mismatch("online", "the HSM is offline")
    if hsm.mode != pattern.mode:
        yield _differs("mode", pattern.mode, hsm.mode)
    elif hsm.mkvp is None and pattern.mode == "ep11":
        yield Mismatch("mkvp", "the HSM has no valid current master key")
    if pattern.mkvp is not None and hsm.mkvp is not None and pattern.mkvp != hsm.mkvp:
        yield _differs("mkvp", pattern.mkvp.hex(), hsm.mkvp.hex())
    elif pattern.mkvp is not None and hsm.mkvp is None and pattern.mode != "ep11":
        yield _differs("mkvp", pattern.mkvp.hex(), "none")
    if pattern.serial is not None and pattern.serial != hsm.serial:
        yield _differs("serial", pattern.serial, hsm.serial or "none")
    if pattern.generation is not None and hsm.generation not in pattern.generation:
        yield _differs("generation", generations_text(pattern.generation), generation_name(hsm.generation))
    if pattern.firmware is not None and hsm.firmware not in pattern.firmware:
        yield _differs("firmware", versions_text(pattern.firmware), version_name(hsm.firmware))
    if pattern.api is not None and hsm.api not in pattern.api:
        yield _differs("api", numbers_text(pattern.api), str(hsm.api))
    if not pattern.compliance <= hsm.compliance:
        lacking = ", ".join(map(shown, sorted(pattern.compliance - hsm.compliance)))
        found = ", ".join(map(shown, sorted(hsm.compliance))) or "none"
        yield Mismatch("compliance", f"compliance lacks {lacking}: {found} found")


def _interval_covers(wide: Interval[T] | None, narrow: Interval[T] | None) -> bool:
    return wide is None or wide.covers(Interval() if narrow is None else narrow)


def _ends(interval: Interval[int]) -> tuple[int | None, int | None]:
    return interval.lowest, interval.highest


def _differs(field: str, wanted: str, found: str) -> Mismatch:
    return Mismatch(field, f"{field} differs: {shown(wanted)} wanted, {shown(found)} found")
