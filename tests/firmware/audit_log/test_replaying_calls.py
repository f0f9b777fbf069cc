"""Refused calls that are decided again by another policy."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from keyvisor_firmware.audit_log.decisions import Decision
from keyvisor_firmware.audit_log.replaying_calls import call_again
from keyvisor_firmware.broker.calls import BY_NAME
from keyvisor_firmware.broker.control_points import Control
from keyvisor_firmware.broker.control_points import _refused as refusal
from keyvisor_hsm.cryptoki import CKA, CKM
from keyvisor_policy import Policy, parse


def policy(*rules: str) -> Policy:
    listed = "".join(f"\n    - {{name: p{number}, {one}}}" for number, one in enumerate(rules))
    return parse(f"version: 1\nrequests:\n  rules:{listed or ' []'}\n")


def recorded(
    old: Policy, call: str, mechanism: int | None, template: Any = None, key: Any = None
) -> Decision:
    """What is recorded of a call that `old` refuses."""
    control = Control(old.control_points)
    decided = control.decide(call, mechanism, template, key)
    assert not decided.allowed
    because = refusal(
        "03.0011", control, BY_NAME[call], mechanism, decided, template or {}, key or {}
    ).because
    assert because is not None
    return Decision(call, False, code="CKR_X", because=dataclasses.asdict(because))


GENERATE = "deny: {call: C_GenerateKey, template: {CKA_EXTRACTABLE: true, CKA_LABEL: 'prod*'}}"
TEMPLATE = {int(CKA.EXTRACTABLE): True, int(CKA.LABEL): b"prod-1"}


@pytest.mark.parametrize(
    ("new", "allowed", "point"),
    [
        ((GENERATE,), False, "p0"),
        ((), True, None),
        (("deny: {call: C_GenerateKey, template: {CKA_EXTRACTABLE: false}}",), True, None),
        (("deny: {call: C_GenerateKey, template: {CKA_LABEL: 'prod-?'}}",), False, "p0"),
        (("deny: {mechanism: CKM_DES_KEY_GEN}", "deny: {mechanism: CKM_AES_KEY_GEN}"), False, "p1"),
    ],
)
def test_a_call_is_decided_by_what_was_looked_at(
    new: tuple[str, ...], allowed: bool, point: str | None
) -> None:
    again = call_again(recorded(policy(GENERATE), "C_GenerateKey", CKM.AES_KEY_GEN, TEMPLATE), policy(*new))
    assert again is not None
    assert again.allowed is allowed
    assert (None if again.rule is None else again.rule.name) == point
    assert (again.reason is None) is allowed


def test_what_was_not_there_is_known_too() -> None:
    old = policy(GENERATE, "deny: {call: C_GenerateKey, template: {CKA_EXTRACTABLE: true}}")
    decision = recorded(old, "C_GenerateKey", CKM.AES_KEY_GEN, {int(CKA.EXTRACTABLE): True})
    again = call_again(decision, policy(GENERATE))
    assert again is not None
    assert again.allowed


def test_the_key_is_told_from_the_template() -> None:
    old = policy("deny: {call: C_SignInit, key: {CKA_MODULUS_BITS: '<2048'}}")
    decision = recorded(old, "C_SignInit", CKM.SHA256_RSA_PKCS, None, {int(CKA.MODULUS): b"\xff" * 128})
    for bits, allowed in (("<1024", True), ("<1025", False)):
        again = call_again(
            decision, policy(f"deny: {{call: C_SignInit, key: {{CKA_MODULUS_BITS: '{bits}'}}}}")
        )
        assert again is not None
        assert again.allowed is allowed


@pytest.mark.parametrize(
    "new",
    [
        "deny: {call: C_GenerateKey, template: {CKA_SENSITIVE: false}}",
        "deny: {call: C_GenerateKey, key: {CKA_LABEL: a}}",
    ],
)
def test_a_policy_that_looks_at_more_cannot_be_asked(new: str) -> None:
    decision = recorded(policy(GENERATE), "C_GenerateKey", CKM.AES_KEY_GEN, TEMPLATE)
    assert call_again(decision, policy(new)) is None


def test_what_may_have_been_cut_is_left_aside() -> None:
    long = {**TEMPLATE, int(CKA.LABEL): b"prod" + b"x" * 200}
    assert (
        call_again(recorded(policy(GENERATE), "C_GenerateKey", CKM.AES_KEY_GEN, long), policy(GENERATE))
        is None
    )
