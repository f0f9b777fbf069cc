"""Calls put to control points: what they are judged by, and a trace that agrees with what decides."""

from __future__ import annotations

import pytest
from hypothesis import given
from tests.policy.test_control_points import Asked, asked, several

from keyvisor_policy.control_points import ControlPoint, ControlPoints
from keyvisor_policy.question_fields import attribute_value, call, mechanism, template, typed
from keyvisor_policy.questions import Question, ask, judged, value_text, wrong_parts
from keyvisor_policy.request_loading import profile_points
from keyvisor_policy.request_tracing import NOT_GIVEN, explain_request
from keyvisor_policy.strict_yaml import Plain

CLASS, KEY_TYPE, EXTRACTABLE, BITS, LABEL, PARAMS = 0, 0x100, 0x162, 0x121, 3, 0x180
PUBLIC, PRIVATE, SECRET = 2, 3, 4
RSA_PAIR, AES_KEY = 0, 0x1080


def test_a_generation_is_judged_by_each_object_that_it_makes() -> None:
    assert judged(Question("C_GenerateKeyPair", RSA_PAIR, {BITS: 2048})) == (
        {BITS: 2048, CLASS: PUBLIC, KEY_TYPE: 0},
        {BITS: 2048, CLASS: PRIVATE, KEY_TYPE: 0},
    )
    assert judged(Question("C_GenerateKey", AES_KEY)) == ({CLASS: SECRET, KEY_TYPE: 0x1F},)
    assert judged(Question("C_GenerateKey", 0x99)) == ({CLASS: SECRET},)
    assert judged(Question("C_CreateObject", template={BITS: 2048})) == ({BITS: 2048},)


def test_a_class_that_is_given_is_the_one_that_is_meant() -> None:
    private = {CLASS: PRIVATE, BITS: 2048}
    assert judged(Question("C_GenerateKeyPair", RSA_PAIR, private)) == ({**private, KEY_TYPE: 0},)


def test_an_extractable_private_half_is_refused_although_the_public_half_passes() -> None:
    points = ControlPoints(profile_points("no-export"))
    answer = ask(points, Question("C_GenerateKeyPair", RSA_PAIR, {EXTRACTABLE: True}))
    assert (answer.decision.allowed, answer.code) == (False, "CKR_TEMPLATE_INCONSISTENT")
    assert answer.template[CLASS] == PRIVATE
    assert ask(points, Question("C_GenerateKeyPair", RSA_PAIR, {EXTRACTABLE: False})).code == "CKR_OK"


@pytest.mark.parametrize(
    ("point", "code"),
    [
        (ControlPoint("a", "deny", mechanisms=frozenset({3})), "CKR_MECHANISM_INVALID"),
        (ControlPoint("a", "deny", calls=frozenset({"C_SignInit"})), "CKR_KEY_FUNCTION_NOT_PERMITTED"),
    ],
)
def test_a_refusal_has_the_code_that_the_application_gets(point: ControlPoint, code: str) -> None:
    assert ask(ControlPoints([point]), Question("C_SignInit", 3)).code == code


@pytest.mark.parametrize(
    ("question", "wrong"),
    [
        (Question("C_SignInit"), "C_SignInit has a mechanism; give it"),
        (Question("C_MessageSignInit"), "C_MessageSignInit has a mechanism; give it"),
        (Question("C_Login", 1), "C_Login has no mechanism; leave it out"),
        (
            Question("C_SignInit", 1, template={BITS: 1}),
            "C_SignInit makes and changes no object; leave `template` out",
        ),
        (Question("C_GenerateKey", 1, key={BITS: 1}), "C_GenerateKey uses no key; leave `key` out"),
        (Question("C_WrapKey", 1, {BITS: 1}, {BITS: 1}), None),
        (Question("C_DeriveKey2", 1, {BITS: 1}, {BITS: 1}), None),
        (Question("C_Login"), None),
    ],
)
def test_a_question_gives_what_such_a_call_has(question: Question, wrong: str | None) -> None:
    assert [said for _, said in wrong_parts(question)] == ([] if wrong is None else [wrong])


@pytest.mark.parametrize(
    ("name", "written", "value"),
    [
        ("CKA_EXTRACTABLE", "true", True),
        ("CKA_MODULUS_BITS", "2048", 2048),
        ("CKA_CLASS", "CKO_PRIVATE_KEY", PRIVATE),
        ("CKA_KEY_TYPE", "0x1f", 0x1F),
        ("CKA_EC_PARAMS", "secp256r1", bytes.fromhex("06082a8648ce3d030107")),
        ("CKA_LABEL", "test-*", b"test-*"),
        ("CKA_LABEL", "!x", b"!x"),
        ("CKA_ID", "0x00ff", b"\0\xff"),
    ],
)
def test_a_value_is_read_by_its_kind_and_said_as_it_is_written(
    name: str, written: str, value: object
) -> None:
    assert typed(name, written) == value
    assert attribute_value(name, Plain(written)) == value
    ((number, read),) = template({name: Plain(written)}).items()
    shown = value_text(number, read)
    assert shown == {"0x1f": "CKK_AES"}.get(written, written)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("CKA_EXTRACTABLE", "yes"),
        ("CKA_MODULUS_BITS", "<2048"),
        ("CKA_MODULUS_BITS", "!2048"),
        ("CKA_KEY_TYPE", "!CKK_RSA"),
        ("CKA_KEY_TYPE", "CKK_RSAA"),
        ("CKA_EC_PARAMS", "secp256r2"),
        ("CKA_VALUE", "0x00"),
        ("CKA_LABLE", "a"),
    ],
)
def test_what_is_no_value_is_refused(name: str, written: str) -> None:
    with pytest.raises(ValueError, match=r"expected|key material"):
        typed(name, written)


def test_one_call_and_one_mechanism_are_asked() -> None:
    assert call("C_MessageSignInit") == "C_MessageSignInit"
    assert mechanism("CKM_RSA_PKCS") == 1
    assert mechanism("0x80000001") == 0x80000001
    with pytest.raises(ValueError, match="C_SignUpdate is decided at C_SignInit; ask that"):
        call("C_SignUpdate")
    with pytest.raises(ValueError, match="did you mean `C_SignInit`"):
        call("C_SignIntt")
    with pytest.raises(ValueError, match="expected one mechanism"):
        mechanism(["CKM_RSA_PKCS", "CKM_AES_GCM"])


@given(several, asked)
def test_the_trace_agrees_with_the_decision(points: list[ControlPoint], question: Asked) -> None:
    call, mechanism, template, key, rule = question
    compiled = ControlPoints(points)
    explanation = explain_request(compiled, Question(call, mechanism, template or {}, key or {}, rule))
    decision = explanation.answer.decision
    assert decision == compiled.decide(call, mechanism, explanation.answer.template, key, rule)
    assert [trace.point for trace in explanation.traces] == list(compiled.concerning(call, mechanism, rule))
    for trace, tried in zip(explanation.traces, decision.tried, strict=True):
        if tried.matched:
            assert all(looked.holds for looked in trace.conditions)
        else:
            assert not all(looked.holds for looked in trace.conditions)
        if tried.error is not None:
            assert None in [looked.holds for looked in trace.conditions]
        for looked in trace.conditions:
            assert not (looked.found == NOT_GIVEN and looked.holds)
    deciding = [trace.point for trace in explanation.traces if trace.decides]
    assert (decision.point is None) == (deciding == [])
    assert all(point == decision.point for point in deciding)
    assert ("refused" in explanation.verdict) is not decision.allowed
    assert explanation.answer.code in explanation.verdict or decision.allowed
