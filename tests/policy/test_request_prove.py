"""Two policies compared by what they let HSMs be asked: beside looking at each HSM and many requests."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_policy import Hsm, Interval, NotPermitted, Pattern, Policy, Rule, Secret, secret_id
from keyvisor_policy.control_points import Between, Condition, ControlPoint, ControlPoints, Is, Like
from keyvisor_policy.hsms import SecretId
from keyvisor_policy.pkcs11.calls import FORMS, ON_ACCELERATORS, ON_BOUND, WITH_KEY, WITH_TEMPLATE
from keyvisor_policy.pkcs11.implied import CLASSES_MADE
from keyvisor_policy.questions import Question, judged
from keyvisor_policy.request_prove import implies_requests, requests_newly_allowed

from .small_domain import EVERY, SECRETS, policies
from .small_requests import BITS, CLASS, KEY_TYPE, LABEL, SENSITIVE, one_of, point_lists

ASKED: list[tuple[str, int | None]] = [
    *((call, mechanism) for call in ("C_SignInit", "C_WrapKey") for mechanism in (0x1, 0x1080, 0x40)),
    *(
        (call, mechanism)
        for call in ("C_GenerateKey", "C_GenerateKeyPair")
        for mechanism in (0x0, 0x1, 0x1080)
    ),
    ("C_DigestInit", 0x1),
    ("C_DigestInit", 0x250),
    ("C_DestroyObject", None),
    ("C_CopyObject", None),
    ("C_GenerateRandom", None),
]
_LOOKED_AT = 30  # of each call, for each pair of rules


_NOT_HELD = "not held"


def held_through(policy: Policy, hsm: Hsm, secret: SecretId | None) -> Rule | str | None:
    """The rule through which the firmware lets the HSM be held; None: it is bound without one."""
    if secret is None:
        return next((rule for rule in policy.rules_for(hsm) if rule.secret is None), None)
    try:
        return policy.permit(hsm, secret)
    except NotPermitted:
        return _NOT_HELD


def allowed(policy: Policy, asked: Question, rule: Rule | None) -> bool:
    points, on = policy.control_points, None if rule is None else rule.name
    return points.decide(asked.call, asked.mechanism, asked.template, asked.key, on).allowed


@st.composite
def controlled(draw: st.DrawFn) -> Policy:
    policy = draw(policies(3))
    return dataclasses.replace(policy, control_points=ControlPoints(draw(point_lists("rule 0", "rule 1"))))


def pairs(new: Policy, old: Policy) -> Iterator[tuple[Rule | None, Rule | None, frozenset[str]]]:
    """The rules that are each policy's for one HSM, and the calls that get through to it."""
    seen = set()
    for hsm in EVERY:
        if not hsm.online or (hsm.mode == "ep11" and hsm.mkvp is None):
            continue
        for secret in (None, *(secret.id for secret in SECRETS)):
            one, other = held_through(new, hsm, secret), held_through(old, hsm, secret)
            bound = ON_ACCELERATORS if hsm.mode == "accel" else ON_BOUND
            found = (one, other, frozenset(FORMS) if secret else bound)
            if found not in seen and not isinstance(one, str) and not isinstance(other, str):
                seen.add(found)
                yield one, other, found[2]


@settings(max_examples=150, deadline=None)
@given(controlled(), controlled(), st.randoms(use_true_random=False))
def test_implied_requests_agree_with_permit_and_decide(new: Policy, old: Policy, random: Random) -> None:
    proof = implies_requests(new, old)
    found = proof.counterexample
    if found is not None:
        assert held_through(new, found.hsm, found.secret_id) == found.rule
        assert held_through(old, found.hsm, found.secret_id) == found.other
        assert found.request.on == (None if found.rule is None else found.rule.name)
        assert found.secret_id is not None or found.request.call in (
            ON_ACCELERATORS if found.hsm.mode == "accel" else ON_BOUND
        )
        assert allowed(new, found.request, found.rule)
        assert not allowed(old, found.request, found.other)
        return
    looked_at = [one for policy in (new, old) for one in policy.control_points.points]
    of_template = {one.attribute for point in looked_at for one in point.template}
    of_key = {one.attribute for point in looked_at for one in point.key}
    for one, other, served in pairs(new, old):
        for call, mechanism in ((call, mechanism) for call, mechanism in ASKED if call in served):
            for _ in range(_LOOKED_AT):
                template = one_of(of_template if call in WITH_TEMPLATE else set(), random)
                key = one_of(of_key if call in WITH_KEY else set(), random)
                for each in judged(Question(call, mechanism, template, key)):
                    if call == "C_GenerateKeyPair" and each[CLASS] not in CLASSES_MADE[call]:
                        continue  # the gate puts the class of each half there itself
                    asked = Question(call, mechanism, each, key)
                    assert allowed(old, asked, other) or not allowed(new, asked, one), (asked, one, other)


@settings(max_examples=100, deadline=None)
@given(controlled(), controlled())
def test_each_example_is_one_and_there_is_one_where_something_is_newly_allowed(
    new: Policy, old: Policy
) -> None:
    examples = requests_newly_allowed(new, old)
    assert bool(examples) is (not implies_requests(new, old).proved)
    for one in examples:
        assert allowed(new, one.request, one.rule)
        assert not allowed(old, one.request, one.other)
        assert one.by in old.control_points.points


def policy(*points: ControlPoint, rules: tuple[Rule, ...] | None = None) -> Policy:
    usual = (_rule("payments", "a", 1), _rule("tls", "b", 2))
    return Policy(usual if rules is None else rules, "p.yaml", b"", control_points=ControlPoints(points))


def _rule(name: str, secret: str, line: int, **pattern: Any) -> Rule:
    return Rule(name, Pattern("ep11", **pattern), Secret(secret_id(secret), secret), 1, line)


def deny(name: str, **rest: Any) -> ControlPoint:
    return ControlPoint(name, "deny", **rest)


SMALL = Condition(BITS, "CKA_MODULUS_BITS: <3072", (Between(None, 3071),))
SMALLER = Condition(BITS, "CKA_MODULUS_BITS: <2048", (Between(None, 2047),))


def test_a_bound_that_is_moved_shows_in_a_key_between_the_two() -> None:
    old, new = policy(deny("size", key=(SMALL,))), policy(deny("size", key=(SMALLER,)))
    found = implies_requests(new, old).counterexample
    assert found is not None
    assert found.request.key == {BITS: 2048}
    assert (found.by.name, found.rule.name, found.other.name) == ("size", "payments", "payments")
    assert implies_requests(old, new).proved


def test_other_names_orders_and_places_change_nothing() -> None:
    one = deny("one", key=(SMALL,), origin="p.yaml:3")
    other = deny("other", mechanisms=frozenset({0x3}), origin="p.yaml:4")
    renamed = dataclasses.replace(one, name="another", origin="q.yaml:9")
    for first, second in [((one, other), (other, one)), ((one, other), (other, renamed))]:
        assert implies_requests(policy(*first), policy(*second)).proved
        assert requests_newly_allowed(policy(*first), policy(*second)) == ()


def test_what_is_said_of_one_rule_counts_where_that_rule_is_the_first() -> None:
    raw = frozenset({0x3})
    everywhere = policy(deny("raw", mechanisms=raw))
    payments = policy(deny("raw", mechanisms=raw, on="payments"))
    found = implies_requests(payments, everywhere).counterexample
    assert found is not None
    assert found.rule.name == "tls"
    broad, narrow = _rule("broad", "a", 1), _rule("narrow", "a", 2, mkvp=bytes(16))
    never_first = (
        policy(rules=(broad, narrow)),
        policy(deny("raw", mechanisms=raw, on="narrow"), rules=(broad, narrow)),
    )
    assert implies_requests(*never_first).proved
    sometimes = (
        policy(rules=(narrow, broad)),
        policy(deny("raw", mechanisms=raw, on="narrow"), rules=(narrow, broad)),
    )
    proof = implies_requests(*sometimes)
    assert proof.counterexample is not None
    assert proof.counterexample.hsm.mkvp == bytes(16)


def test_an_allow_that_is_gone_shows_the_profile_that_refuses_then() -> None:
    profile = deny("no export", profile="no-export", template=(Condition(SENSITIVE, "false", (Is(False),)),))
    allow = ControlPoint(
        "tests",
        "allow",
        calls=frozenset({"C_GenerateKey"}),
        template=(Condition(KEY_TYPE, "AES", (Is(0x1F),)),),
    )
    example, *_ = requests_newly_allowed(policy(profile, allow), policy(profile))
    assert example.by == profile
    assert example.request.call == "C_GenerateKey"
    assert example.request.template[SENSITIVE] is False
    assert example.request.template[KEY_TYPE] == 0x1F
    assert implies_requests(policy(profile), policy(profile, allow)).proved


def test_a_rule_of_accelerators_that_becomes_narrower_lets_go_of_those_that_it_held() -> None:
    wide, narrow = (
        Rule("tls", Pattern("accel", generation=Interval(lowest, None)), None, 1, 1) for lowest in (6, 7)
    )
    point = deny("raw", mechanisms=frozenset({0x3}), on="tls")
    proof = implies_requests(policy(point, rules=(narrow,)), policy(point, rules=(wide,)))
    assert proof.counterexample is not None
    assert (proof.counterexample.rule, proof.counterexample.other) == (None, wide)
    assert proof.counterexample.hsm.generation == 6
    assert implies_requests(policy(point, rules=(wide,)), policy(point, rules=(narrow,))).proved


def test_an_accelerator_is_asked_what_accelerators_serve() -> None:
    rule = (Rule("tls", Pattern("accel"), None, 1, 1),)
    for call, served in (("C_SignInit", True), ("C_GenerateKey", False)):
        point = deny("no", calls=frozenset({call}))
        assert implies_requests(policy(rules=rule), policy(point, rules=rule)).proved is not served


def test_a_thousand_points_are_compared_in_seconds() -> None:
    many = [
        deny(f"p{number}", mechanisms=frozenset({number}), key=(SMALL,), template=(SMALLER,))
        for number in range(500)
    ] + [
        deny(f"l{number}", template=(Condition(LABEL, "l", (Like(f"refused-{number}-*"),)),))
        for number in range(500)
    ]
    start = time.monotonic()
    assert implies_requests(policy(*many), policy(*reversed(many))).proved
    changed = [*many[:-1], deny("l", template=(Condition(LABEL, "l", (Like("refused-499-?*"),)),))]
    found = implies_requests(policy(*changed), policy(*many)).counterexample
    assert found is not None
    assert found.request.template == {LABEL: b"refused-499-"}
    assert time.monotonic() - start < 60
