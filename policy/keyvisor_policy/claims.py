"""Proofs in words and as JSON: what was claimed, where it stands in a file, and the counterexample.

An HSM is written as an inventory has it, so that it can be put into one, or into a case. Decides nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keyvisor_policy.errors import Finding
from keyvisor_policy.hsms import Hsm, SecretId, generation_name, version_name
from keyvisor_policy.matching import secret_text
from keyvisor_policy.never import Never
from keyvisor_policy.policy import Policy
from keyvisor_policy.prove import Allowed, Proof, Shadow
from keyvisor_policy.regions import of_description
from keyvisor_policy.rules import Rule
from keyvisor_policy.strict_yaml.wording import shown

SHOWN_RULES = 3

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*|[0-9]{2,}[A-Z0-9]*")


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that was to be proved, where it stands, and what came of it. `detail` is for programs."""

    claim: str
    finding: Finding
    proved: bool
    cells: int
    detail: dict[str, object]

    def __str__(self) -> str:
        return str(self.finding)

    def value(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "claim": self.claim,
            "file": self.finding.source,
            "line": self.finding.line,
            "column": self.finding.column,
            "proved": self.proved,
            "cells": self.cells,
            "message": self.finding.message,
            **self.detail,
        }


def never_claim(policy: Policy, never: Never, proof: Proof) -> Claim:
    """That a `never` cannot happen."""
    example = proof.counterexample
    named = "" if never.name is None else f" {shown(never.name)}"
    if example is not None:
        words = f"`never`{named} can happen: {allows(example)}"
    elif proof.cells:
        words = f"`never`{named} cannot happen"
    else:
        words = f"`never`{named} cannot happen, but only because {_emptiness(policy, never)}"
    return _claim("never", policy, never, proof, words)


def implies_claim(new: Policy, old: Policy, proof: Proof) -> Claim:
    """That one policy allows nothing that another refuses."""
    example = proof.counterexample
    source = _file(old)
    if example is None:
        return _claim("implies", new, None, proof, f"nothing is allowed that {source} refuses")
    return _claim("implies", new, example.rule, proof, f"{allows(example)}, which {source} refuses")


def shadow_claim(policy: Policy, rule: Rule, shadow: Shadow) -> Claim:
    """That a rule is not shadowed."""
    name = f"rule {shown(rule.name)}"
    detail: dict[str, object] = {"rule": _rule(policy, rule)}
    if shadow.alone is not None:
        words = f"{name} is not shadowed, no earlier rule has {hsm_text(shadow.alone)} first"
        detail |= {"example": hsm_value(shadow.alone), "by": []}
    elif shadow.hsm is None:
        words, detail["example"], detail["by"] = f"no HSM can match {name}", None, []
    else:
        words = f"{name} is shadowed: {_together(shadow.by)} every HSM of it first, as {hsm_text(shadow.hsm)}"
        detail |= {"example": hsm_value(shadow.hsm), "by": [_rule(policy, other) for other in shadow.by]}
    found = _finding(policy, rule, shadow.alone is not None, shadow.cells, words)
    return Claim("not-shadowed", found, shadow.alone is not None, shadow.cells, detail)


def allows(example: Allowed) -> str:
    """As in: rule `a` in line 4 allows secret `b` on {...}."""
    rule = f"rule {shown(example.rule.name)} in line {example.rule.line}"
    if example.rule.secret is None:
        return f"{rule} binds {hsm_text(example.hsm)}"
    return f"{rule} allows secret {secret_text(example.rule.secret)} on {hsm_text(example.hsm)}"


def example_value(policy: Policy, example: Allowed) -> dict[str, object]:
    """Something that a policy allows, as JSON has it."""
    secret = example.rule.secret
    return {
        "rule": _rule(policy, example.rule),
        "secret": None if secret is None else secret.name,
        "secret_id": None if secret is None else secret.id.hex(),
        "hsm": hsm_value(example.hsm),
    }


def hsm_value(hsm: Hsm) -> dict[str, object]:
    """An HSM as an inventory in JSON has it."""
    return {
        "apqn": hsm.apqn,
        "mode": hsm.mode,
        "generation": generation_name(hsm.generation),
        "mkvp": None if hsm.mkvp is None else hsm.mkvp.hex(),
        "serial": hsm.serial,
        "firmware": version_name(hsm.firmware),
        "api": hsm.api,
        "compliance": sorted(hsm.compliance),
    }


def hsm_text(hsm: Hsm) -> str:
    """An HSM as a line of an inventory in YAML, without what it has none of."""
    return "{" + ", ".join(f"{key}: {text}" for key, text in _hsm_fields(hsm)) + "}"


def _hsm_fields(hsm: Hsm) -> Iterator[tuple[str, str]]:
    yield "apqn", hsm.apqn
    yield "mode", hsm.mode
    yield "generation", generation_name(hsm.generation)
    if hsm.mkvp is not None:
        yield "mkvp", f"0x{hsm.mkvp.hex()}"
    if hsm.serial:
        yield "serial", _scalar(hsm.serial)
    if hsm.firmware != (0, 0):
        yield "firmware", version_name(hsm.firmware)
    if hsm.api:
        yield "api", str(hsm.api)
    if hsm.compliance:
        yield "compliance", f"[{', '.join(map(_scalar, sorted(hsm.compliance)))}]"


def _scalar(text: str) -> str:
    """A text in quotes where it is not surely itself without; in ASCII, so that it steers no terminal."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _claim(claim: str, policy: Policy, place: Never | Rule | None, proof: Proof, words: str) -> Claim:
    example = proof.counterexample
    detail: dict[str, object] = {"name": place.name} if isinstance(place, Never) else {}
    detail["counterexample"] = None if example is None else example_value(policy, example)
    found = _finding(policy, place, proof.proved, proof.cells, words)
    return Claim(claim, found, proof.proved, proof.cells, detail)


def _finding(policy: Policy, place: Never | Rule | None, proved: bool, cells: int, words: str) -> Finding:
    line, column = (1, 1) if place is None else (place.line, place.column)
    looked = f" ({cells} cell{'' if cells == 1 else 's'} looked at)" if proved and cells else ""
    return Finding(
        policy.source, line, column, f"{'proved' if proved else 'counterexample'}: {words}{looked}"
    )


def _emptiness(policy: Policy, never: Never) -> str:
    """Why no cell was there to be looked at."""
    if not of_description(never.hsm):
        return "it describes no HSM there can be"
    if never.secret is not None and all(never.secret.id != _id(rule) for rule in policy.rules):
        return f"no rule has secret {secret_text(never.secret)}"
    return "no rule is for an HSM of its mode"


def _id(rule: Rule) -> SecretId | None:
    return None if rule.secret is None else rule.secret.id


def _file(policy: Policy) -> str:
    return shown(policy.source)


def _rule(policy: Policy, rule: Rule) -> dict[str, object]:
    return {"file": policy.source, "name": rule.name, "line": rule.line}


def _together(rules: Sequence[Rule]) -> str:
    """As in: rule `a` in line 3 matches; rules `a` in line 3 and `b` in line 4 together match."""
    parts = [f"{shown(rule.name)} in line {rule.line}" for rule in rules[:SHOWN_RULES]]
    rest = len(rules) - SHOWN_RULES
    if rest > 0:
        parts.append(f"{rest} more")
    if len(parts) == 1:
        return f"rule {parts[0]} matches"
    return f"rules {', '.join(parts[:-1])} and {parts[-1]} together match"
