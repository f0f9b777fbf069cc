"""What a policy lets be asked and another does not, in words and as JSON, with the command that shows the refusal."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Final

from keyvisor_policy.claims import Claim, hsm_text, hsm_value
from keyvisor_policy.control_points import ControlPoint, Template
from keyvisor_policy.errors import Finding
from keyvisor_policy.matching import secret_text
from keyvisor_policy.policy import Policy
from keyvisor_policy.questions import Question, attribute_name, mechanism_name, value_text
from keyvisor_policy.request_prove import AllowedRequest, RequestProof
from keyvisor_policy.rules import Rule, Secret
from keyvisor_policy.strict_yaml.wording import shown

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]+")


def implies_requests_claim(new: Policy, old: Policy, proof: RequestProof) -> Claim:
    """That one policy lets nothing be asked that another refuses, where both let the HSM be held."""
    example = proof.counterexample
    if example is None:
        cells = f"{proof.cells} cell{'' if proof.cells == 1 else 's'} looked at"
        words = f"proved: nothing may be asked that {shown(old.source)} refuses ({cells})"
        line = column = 1
    else:
        words = (
            f"counterexample: {lets(example)} {of_what(example)}; in {shown(old.source)} {refuses(example)}:"
            f" {command(old, example)}"
        )
        line, column = (1, 1) if example.rule is None else (example.rule.line, example.rule.column)
    detail: dict[str, object] = {
        "counterexample": None if example is None else request_example_value(new, old, example)
    }
    return Claim(
        "implies-requests", Finding(new.source, line, column, words), proof.proved, proof.cells, detail
    )


def lets(example: AllowedRequest) -> str:
    """As in: rule `a` in line 4 lets be asked: C_SignInit with CKM_RSA_PKCS, key {CKA_MODULUS_BITS: 1024}."""
    rule = (
        "binding" if example.rule is None else f"rule {shown(example.rule.name)} in line {example.rule.line}"
    )
    return f"{rule} lets be asked: {request_text(example.request)}"


def of_what(example: AllowedRequest) -> str:
    """As in: of {apqn: ...} with secret `b`."""
    secret = _secret(example.rule)
    return f"of {hsm_text(example.hsm)}{'' if secret is None else f' with secret {secret_text(secret)}'}"


def refuses(example: AllowedRequest) -> str:
    """As in: control point `big enough` (p.yaml:14) refuses it; where the rule is another one, through which."""
    through = ""
    if example.other is not None and example.other.name != example.request.on:
        through = f" through rule {shown(example.other.name)}"
    return f"control point {shown(example.by.name)} ({example.by.origin}) refuses it{through}"


def request_text(request: Question) -> str:
    """As in: C_SignInit with CKM_RSA_PKCS, key {CKA_MODULUS_BITS: 1024}."""
    parts = [str(request)]
    for name, template in (("template", request.template), ("key", request.key)):
        if template:
            fields = ", ".join(f"{attribute}: {_quoted(text)}" for attribute, text in _fields(template))
            parts.append(f"{name} {{{fields}}}")
    return ", ".join(parts)


def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def command(policy: Policy, example: AllowedRequest) -> str:
    """The command that shows how the policy refuses the example."""
    asked = example.request
    words = ["keyvisor", "policy", "explain", policy.source, "--call", asked.call]
    if asked.mechanism is not None:
        words += ["--mechanism", mechanism_name(asked.mechanism)]
    for option, template in (("--template", asked.template), ("--key", asked.key)):
        for attribute, text in _fields(template):
            words += [option, f"{attribute}={text}"]
    if example.other is not None:
        words += ["--on", example.other.name]
    return f"`{shlex.join(words)}`"


def request_example_value(new: Policy, old: Policy, example: AllowedRequest) -> dict[str, object]:
    """Something that the one policy lets be asked and the other does not, as JSON has it."""
    secret = _secret(example.rule)
    return {
        "rule": _rule_value(new, example.rule),
        "secret": None if secret is None else secret.name,
        "secret_id": None if secret is None else secret.id.hex(),
        "hsm": hsm_value(example.hsm),
        "call": example.request.call,
        "mechanism": None if example.request.mechanism is None else mechanism_name(example.request.mechanism),
        "template": dict(_fields(example.request.template)),
        "key": dict(_fields(example.request.key)),
        "refused_by": _point_value(example.by),
        "refusing_rule": _rule_value(old, example.other),
    }


def _secret(rule: Rule | None) -> Secret | None:
    return None if rule is None else rule.secret


def _rule_value(policy: Policy, rule: Rule | None) -> dict[str, object] | None:
    return None if rule is None else {"file": policy.source, "name": rule.name, "line": rule.line}


def _point_value(point: ControlPoint) -> dict[str, object]:
    return {"name": point.name, "profile": point.profile, "origin": point.origin}


def _fields(template: Template) -> Iterator[tuple[str, str]]:
    for attribute, value in template.items():
        yield attribute_name(attribute), value_text(attribute, value)
