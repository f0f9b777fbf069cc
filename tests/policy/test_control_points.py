"""Control points: what they decide, beside a second implementation that has neither index nor memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_policy.control_points import (
    NO_CONTROL_POINTS,
    Between,
    Condition,
    ControlPoint,
    ControlPoints,
    Is,
    Like,
    Match,
    Template,
    Unreadable,
)

SIGN, GENERATE = "C_SignInit", "C_GenerateKey"
RAW, PSS = 3, 0xD
BITS, LABEL, SENSITIVE = 0x121, 3, 0x103

NO_RAW = ControlPoint("no raw", "deny", mechanisms=frozenset({RAW}), origin="p.yaml:3")
RAW_ALLOWED = ControlPoint("raw signatures", "allow", calls=frozenset({SIGN}), origin="p.yaml:4")
PROFILE_NO_RAW = ControlPoint(
    "no raw", "deny", mechanisms=frozenset({RAW}), profile="strict", origin="profile strict:2"
)
SMALL = ControlPoint(
    "small",
    "deny",
    template=(Condition(BITS, "CKA_MODULUS_BITS: <3072", (Between(None, 3071),)),),
    origin="p.yaml:5",
)
SMALL_KEY = ControlPoint(
    "small key",
    "deny",
    key=(Condition(BITS, "CKA_MODULUS_BITS: <3072", (Between(None, 3071),)),),
    origin="p.yaml:6",
)


def test_no_point_allows() -> None:
    decision = NO_CONTROL_POINTS.decide(SIGN, RAW, None, None, None)
    assert decision.allowed
    assert (decision.point, decision.kind, decision.tried) == (None, "use", ())
    assert decision.reason == "no control point refuses C_SignInit"


def test_a_deny_refuses_what_it_names_and_nothing_else() -> None:
    points = ControlPoints([NO_RAW])
    decision = points.decide(SIGN, RAW, None, None, None)
    assert not decision.allowed
    assert (decision.point, decision.kind) == (NO_RAW, "mechanism")
    assert decision.reason == "control point `no raw` (p.yaml:3) refuses it"
    assert points.decide(SIGN, PSS, None, None, None).allowed
    assert points.decide("C_DigestKey", None, None, None, None).allowed


@pytest.mark.parametrize("order", [1, -1])
def test_a_deny_wins_over_an_allow_in_whatever_order(order: int) -> None:
    points = ControlPoints([NO_RAW, RAW_ALLOWED][::order])
    assert points.decide(SIGN, RAW, None, None, None).point == NO_RAW


@pytest.mark.parametrize("order", [1, -1])
def test_an_allow_wins_over_a_profile_in_whatever_order(order: int) -> None:
    points = ControlPoints([RAW_ALLOWED, PROFILE_NO_RAW][::order])
    decision = points.decide(SIGN, RAW, None, None, None)
    assert decision.allowed
    assert decision.point == RAW_ALLOWED
    assert not points.decide("C_DecryptInit", RAW, None, None, None).allowed


def test_a_point_for_one_association_holds_for_no_other() -> None:
    points = ControlPoints([ControlPoint("payments alone", "deny", calls=frozenset({SIGN}), on="payments")])
    assert not points.decide(SIGN, PSS, None, None, "payments").allowed
    assert points.decide(SIGN, PSS, None, None, "ledger").allowed
    assert points.decide(SIGN, PSS, None, None, None).allowed


@pytest.mark.parametrize(
    ("point", "template", "key", "kind", "words"),
    [
        (SMALL, {BITS: 2048}, None, "template", "refuses it where CKA_MODULUS_BITS: <3072"),
        (SMALL_KEY, None, {BITS: 2048}, "use", "refuses it where key CKA_MODULUS_BITS: <3072"),
    ],
)
def test_a_condition_is_about_the_template_or_about_the_key(
    point: ControlPoint, template: Template | None, key: Template | None, kind: str, words: str
) -> None:
    points = ControlPoints([point])
    decision = points.decide(GENERATE, None, template, key, None)
    assert (decision.allowed, decision.kind) == (False, kind)
    assert decision.reason.endswith(words)
    assert points.decide(GENERATE, None, key, template, None).allowed
    assert points.decide(GENERATE, None, {BITS: 3072}, {BITS: 3072}, None).allowed
    assert points.decide(GENERATE, None, {LABEL: b"x"}, None, None).allowed


def test_what_cannot_be_read_refuses_even_where_an_allow_matches() -> None:
    allow = ControlPoint("all", "allow", calls=frozenset({GENERATE}), origin="p.yaml:7")
    points = ControlPoints([allow, SMALL])
    decision = points.decide(GENERATE, None, {BITS: b"\x08\x00"}, None, None)
    assert not decision.allowed
    assert decision.point == SMALL
    assert "cannot be decided: it is not a number; so it refuses" in decision.reason
    assert [(one.point, one.matched, one.error) for one in decision.tried] == [
        (allow, True, None),
        (SMALL, False, "it is not a number"),
    ]


def test_a_broken_allow_refuses_too() -> None:
    allow = ControlPoint("labels", "allow", template=(Condition(LABEL, "CKA_LABEL: t*", (Like("t*"),)),))
    assert not ControlPoints([allow]).decide(GENERATE, None, {LABEL: 7}, None, None).allowed


@pytest.mark.parametrize(
    ("match", "fits", "fits_not", "unreadable"),
    [
        (Is(True), [True], [False], [1, b"\1"]),
        (Is(1), [1], [0, 2], [True, b"\1"]),
        (Is(b"a"), [b"a"], [b"", b"A"], [True, 0]),
        (Between(2, 3), [2, 3], [1, 4], [True, b"\2"]),
        (Between(2, None), [2, 2**63], [1], [b""]),
        (Between(None, 3), [0, 3], [4], [False]),
        (Like("test-*"), [b"test-", b"test-1"], [b"Test-1", b"a test-1"], [0, True]),
        (Like("a?"), [b"ab", "aé".encode()], [b"a", b"abc"], [1]),
        (Like("[a]*"), [b"[a]", b"[a]b"], [b"a", b"ab"], [1]),
        (Like("*"), [b"\xff\xfe", b""], [], [1]),
        (Like("a*b"), [b"a\nb", b"ab\n"[:2]], [b"ab\n"], [1]),
    ],
)
def test_a_value_fits_or_not_or_is_of_another_kind(
    match: Match, fits: list[bytes], fits_not: list[bytes], unreadable: list[bytes]
) -> None:
    assert [match.holds(value) for value in fits] == [True] * len(fits)
    assert [match.holds(value) for value in fits_not] == [False] * len(fits_not)
    for value in unreadable:
        with pytest.raises(Unreadable):
            match.holds(value)


def test_an_attribute_that_is_not_there_meets_nothing_not_even_a_negation() -> None:
    but = Condition(BITS, "CKA_MODULUS_BITS: !4096", (Is(4096),), negated=True)
    assert but.met({BITS: 2048})
    assert not but.met({BITS: 4096})
    assert not but.met({})


def test_true_and_one_are_told_apart_by_what_is_remembered() -> None:
    point = ControlPoint("one", "deny", template=(Condition(BITS, "", (Is(1),)),))
    points = ControlPoints([point])
    assert "cannot be decided" in points.decide(GENERATE, None, {BITS: True}, None, None).reason
    assert "cannot be decided" not in points.decide(GENERATE, None, {BITS: 1}, None, None).reason


@pytest.mark.parametrize(
    ("points", "served"),
    [
        ([], True),
        ([NO_RAW], False),
        ([NO_RAW, RAW_ALLOWED], False),
        ([PROFILE_NO_RAW], False),
        ([PROFILE_NO_RAW, RAW_ALLOWED], True),
        ([SMALL], True),
        ([SMALL_KEY], True),
        ([ControlPoint("elsewhere", "deny", mechanisms=frozenset({RAW}), on="ledger")], True),
        ([ControlPoint("all signing", "deny", calls=frozenset({SIGN}))], False),
    ],
)
def test_a_mechanism_is_served_unless_every_request_for_it_would_be_refused(
    points: list[ControlPoint], served: bool
) -> None:
    assert ControlPoints(points).serves(SIGN, RAW, "payments") is served


def test_calls_are_those_that_points_name_or_all_that_are_decided() -> None:
    assert ControlPoints([RAW_ALLOWED]).calls == frozenset({SIGN})
    assert {SIGN, "C_DigestKey", "C_MessageSignInit"} < ControlPoints([RAW_ALLOWED, NO_RAW]).calls
    assert NO_CONTROL_POINTS.calls == frozenset()


def test_a_search_is_not_decided_by_a_point_without_calls() -> None:
    points = ControlPoints([SMALL, SMALL_KEY])
    assert points.decide("C_FindObjectsInit", None, {BITS: 1024}, None, None).point is None
    assert points.decide("C_GetObjectSize", None, None, {BITS: 1024}, None).allowed
    assert not points.decide("C_GetAttributeValue", None, None, {BITS: 1024}, None).allowed
    assert SIGN not in NO_CONTROL_POINTS.calls


values = st.one_of(st.booleans(), st.integers(0, 4), st.sampled_from([b"", b"a", b"ab", b"\xff"]))
matches = st.one_of(
    st.builds(Is, values),
    st.builds(Between, st.none() | st.integers(0, 4), st.none() | st.integers(0, 4)),
    st.builds(Like, st.sampled_from(["*", "a*", "?", "[a]"])),
)
conditions = st.builds(
    Condition,
    st.sampled_from([BITS, LABEL, SENSITIVE]),
    st.just("text"),
    st.lists(matches, min_size=1, max_size=2).map(tuple),
    st.booleans(),
)
some_conditions = st.lists(conditions, max_size=2).map(tuple)
points_of_one = st.builds(
    ControlPoint,
    st.sampled_from(["one", "two", "three"]),
    st.sampled_from(["deny", "allow"]),
    st.frozensets(st.sampled_from([SIGN, GENERATE]), max_size=2),
    st.frozensets(st.sampled_from([RAW, PSS]), max_size=2),
    some_conditions,
    some_conditions,
    st.none() | st.just("payments"),
    st.none() | st.just("strict"),
    st.just("p.yaml:1"),
)
several = st.lists(points_of_one, max_size=5)
templates = st.none() | st.dictionaries(st.sampled_from([BITS, LABEL, SENSITIVE]), values, max_size=3)
asked = st.tuples(
    st.sampled_from([SIGN, GENERATE, "C_WrapKey"]),
    st.none() | st.sampled_from([RAW, PSS, 0x99]),
    templates,
    templates,
    st.none() | st.sampled_from(["payments", "ledger"]),
)
Asked = tuple[str, int | None, Template | None, Template | None, str | None]


def plainly(points: list[ControlPoint], question: Asked) -> tuple[bool, ControlPoint | None, bool]:
    """Allowed, by which point, and whether because it could not be read: looks at every point, one after the other."""
    call, mechanism, template, key, rule = question
    matched: list[ControlPoint] = []
    for point in points:
        if point.calls and call not in point.calls:
            continue
        if point.mechanisms and mechanism not in point.mechanisms:
            continue
        if point.on not in (None, rule):
            continue
        try:
            if all(
                one.met(where or {})
                for where, conditions in ((template, point.template), (key, point.key))
                for one in conditions
            ):
                matched.append(point)
        except Unreadable:
            return False, point, True
    for effect, own in (("deny", True), ("allow", None), ("deny", False)):
        for point in matched:
            if point.effect == effect and (own is None or (point.profile is None) is own):
                return effect == "allow", point, False
    return True, None, False


@given(several, st.lists(asked, min_size=1, max_size=6))
def test_the_index_and_the_memory_agree_with_a_plain_look_at_every_point(
    points: list[ControlPoint], questions: list[Asked]
) -> None:
    compiled = ControlPoints(points)
    for question in [*questions, *questions]:
        allowed, point, unreadable = plainly(points, question)
        decision = compiled.decide(*question)
        assert (decision.allowed, decision.point) == (allowed, point)
        assert ("cannot be decided" in decision.reason) is unreadable
        assert decision.kind == ("use" if point is None else point.kind)


@given(several, asked)
def test_what_is_not_served_is_refused_whatever_is_asked(points: list[ControlPoint], question: Asked) -> None:
    call, mechanism, _, _, rule = question
    compiled = ControlPoints(points)
    if mechanism is not None and not compiled.serves(call, mechanism, rule):
        assert not compiled.decide(*question).allowed


@given(several, asked)
def test_only_the_attributes_that_are_told_matter(points: list[ControlPoint], question: Asked) -> None:
    call, mechanism, template, key, rule = question
    compiled = ControlPoints(points)
    of_template = compiled.template_types(call, mechanism, rule)
    of_key = compiled.key_types(call, mechanism, rule)
    needed = {type_: value for type_, value in (template or {}).items() if type_ in of_template}
    needed_of_key = {type_: value for type_, value in (key or {}).items() if type_ in of_key}
    assert compiled.decide(*question) == compiled.decide(call, mechanism, needed, needed_of_key, rule)


@given(several, asked)
def test_points_come_back_from_json_with_the_same_digest(points: list[ControlPoint], question: Asked) -> None:
    compiled = ControlPoints(points)
    again = ControlPoints.from_json(json.loads(json.dumps(compiled.to_json())))
    assert again.points == compiled.points
    assert again.digest == compiled.digest
    assert again == compiled
    assert hash(again) == hash(compiled)
    assert again.decide(*question) == compiled.decide(*question)


@given(several, several)
def test_other_points_have_another_digest(one: list[ControlPoint], other: list[ControlPoint]) -> None:
    same = repr(ControlPoints(one).to_json()) == repr(ControlPoints(other).to_json())  # True is not 1 here
    assert (ControlPoints(one).digest == ControlPoints(other).digest) is same


@pytest.mark.parametrize(
    "value",
    [None, 7, [{}], [[]], [{"name": "a"}], [{**ControlPoints([NO_RAW]).to_json()[0], "effect": "maybe"}]],
)
def test_what_is_no_control_point_is_not_read(value: object) -> None:
    with pytest.raises((LookupError, TypeError, ValueError)):
        ControlPoints.from_json(value)


def test_the_gate_asks_without_yaml_and_without_the_grammar() -> None:
    code = (
        "import sys, keyvisor_policy.control_points;"
        "print(*sorted({'yaml', 'pydantic', 'pydantic_core', 'typer', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, encoding="utf-8", timeout=60
    )
    assert done.stdout == "\n"
