"""Findings about control points: for each what is said and a twin that has it not, and that they are true."""

from __future__ import annotations

import time
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_policy import Policy, parse
from keyvisor_policy.control_points import Condition, ControlPoint, ControlPoints, Is, Template
from keyvisor_policy.lint import check
from keyvisor_policy.lint_points import about_points
from keyvisor_policy.pkcs11.names import ATTRIBUTES, MECHANISMS
from keyvisor_policy.point_cover import apart, covers
from keyvisor_policy.questions import Question, judged, wrong_parts

HEAD = """\
version: 1
associations: [{name: payments, hsm: {serial: AAAAAAAAAAAAAAAA}}, {name: tls, hsm: {mode: accel}}]
requests:
  profiles: [PROFILES]
  rules:
"""


def policy_of(*points: str, profiles: str = "") -> Policy:
    lines = [
        f"  - {{{point}}}\n"
        if point.startswith("name")
        else f"  - {{name: {chr(ord('a') + number)}, {point}}}\n"
        for number, point in enumerate(points)
    ]
    return parse(HEAD.replace("PROFILES", profiles) + "".join(lines), "p.yaml")


def findings(*points: str, profiles: str = "") -> list[str]:
    return [str(remark).removeprefix("p.yaml:") for remark in check(policy_of(*points, profiles=profiles))]


def way(message: str) -> str:
    return f"6:5: control point `a` looks at {message} [point-never-matches]"


SECOND = "6:5: control point `a` can never decide: `b` in line 7 matches all that it matches, and wins over an allow; narrow that, or remove this [point-never-decides]"  # fmt: skip  # noqa: E501
FIRST = "7:5: control point `b` can never decide: `a` in line 6 matches all that it matches, and comes first; narrow that, or remove this [point-never-decides]"  # fmt: skip  # noqa: E501
NEEDLESS = "6:5: control point `a` allows what no profile of the policy denies; remove it [allow-needless]"
BITS = 'CKA_MODULUS_BITS: "<3072"'

# (what is said, the points that have it, the points of the twin, profiles)
CASES: list[tuple[str, list[str], list[str], str]] = [
    (
        way("`template`, which no call that it names has; look at `key` instead, or name another call"),
        [f"deny: {{call: C_SignInit, template: {{{BITS}}}}}"],
        [f"deny: {{call: [C_SignInit, C_CreateObject], template: {{{BITS}}}}}"],
        "",
    ),
    (
        way("`key`, which no call that it names has; look at `template` instead, or name another call"),
        [f"deny: {{call: [C_GenerateKey, C_GenerateKeyPair], key: {{{BITS}}}}}"],
        [f"deny: {{call: [C_GenerateKey, C_GenerateKeyPair], template: {{{BITS}}}}}"],
        "",
    ),
    (
        way("`mechanism`, which no call that it names has; leave it out, or name another call"),
        ["deny: {call: C_DigestKey, mechanism: CKM_SHA_1}"],
        ["deny: {call: C_DigestInit, mechanism: CKM_SHA_1}"],
        "",
    ),
    (
        way("`mechanism` and `key`, which no call that it names has; leave it out, or name another call"),
        ["deny: {call: C_Login, mechanism: CKM_SHA_1, key: {CKA_LABEL: a}}"],
        ["deny: {call: C_SignInit, mechanism: CKM_SHA_1, key: {CKA_LABEL: a}}"],
        "",
    ),
    (
        way("`mechanism` and `template`, which no call that it names has together; leave it out, or name another call"),
        ["deny: {call: [C_SignInit, C_CreateObject], mechanism: CKM_SHA_1, template: {CKA_LABEL: a}}"],
        ["deny: {mechanism: CKM_SHA_1, template: {CKA_LABEL: a}}"],
        "",
    ),
    (
        FIRST,
        ["deny: {call: C_SignInit}", "deny: {call: C_SignInit, mechanism: CKM_RSA_PKCS}"],
        ["deny: {call: C_SignInit, mechanism: CKM_RSA_PKCS}", "deny: {call: C_SignInit}"],
        "",
    ),
    (
        FIRST,
        ["deny: {mechanism: [CKM_SHA_1, CKM_MD5]}", "deny: {call: C_DigestInit, mechanism: CKM_SHA_1}, on: tls"],
        ["deny: {mechanism: [CKM_SHA_1, CKM_MD5]}, on: payments", "deny: {call: C_DigestInit, mechanism: CKM_SHA_1}, on: tls"],
        "",
    ),
    (
        SECOND,
        ["allow: {call: C_WrapKey, mechanism: CKM_AES_KEY_WRAP}", "deny: {call: C_WrapKey}"],
        ["allow: {call: C_WrapKey}", "deny: {call: C_WrapKey, mechanism: CKM_AES_KEY_WRAP}"],
        "no-export",
    ),
    (
        FIRST,
        [
            "allow: {call: [C_GenerateKey, C_DeriveKey], template: {CKA_EXTRACTABLE: true}}",
            'allow: {call: C_GenerateKey, template: {CKA_EXTRACTABLE: true, CKA_LABEL: "test-*"}}',
        ],
        [
            'allow: {call: C_GenerateKey, template: {CKA_EXTRACTABLE: true, CKA_LABEL: "test-*"}}',
            "allow: {call: [C_GenerateKey, C_DeriveKey], template: {CKA_EXTRACTABLE: true}}",
        ],
        "no-export",
    ),
    (
        FIRST,
        [f"deny: {{template: {{{BITS}}}}}", "deny: {call: C_GenerateKeyPair, template: {CKA_MODULUS_BITS: [1024, 2048..2050]}}"],
        [f"deny: {{template: {{{BITS}}}}}", "deny: {call: C_GenerateKeyPair, template: {CKA_MODULUS_BITS: [1024, 2048..3072]}}"],
        "",
    ),
    (
        FIRST,
        ['deny: {key: {CKA_LABEL: "test-*"}}', "deny: {call: C_SignInit, key: {CKA_LABEL: test-1}}"],
        ['deny: {key: {CKA_LABEL: "test-*"}}', "deny: {call: C_CopyObject, template: {CKA_LABEL: test-1}}"],
        "",
    ),
    (
        FIRST,
        ['deny: {key: {CKA_KEY_TYPE: "!CKK_RSA"}}', "deny: {call: C_SignInit, key: {CKA_KEY_TYPE: [CKK_EC, CKK_AES]}}"],
        ['deny: {key: {CKA_KEY_TYPE: "!CKK_RSA"}}', "deny: {call: C_SignInit, key: {CKA_KEY_TYPE: [CKK_EC, CKK_RSA]}}"],
        "",
    ),
    (
        FIRST,
        ['deny: {key: {CKA_KEY_TYPE: "!CKK_RSA"}}', 'deny: {key: {CKA_KEY_TYPE: ["!CKK_RSA", "!CKK_EC"]}}'],
        ['deny: {key: {CKA_KEY_TYPE: ["!CKK_RSA", "!CKK_EC"]}}', 'deny: {key: {CKA_KEY_TYPE: "!CKK_RSA"}}'],
        "",
    ),
    (NEEDLESS, ["allow: {call: C_SignInit}"], ["deny: {call: C_SignInit}"], ""),
    (NEEDLESS, ["allow: {call: C_DigestInit}"], ["allow: {call: C_DigestInit}"], "no-export"),
    (
        NEEDLESS,
        ["allow: {mechanism: CKM_AES_GCM, call: C_DigestInit}"],
        ["allow: {mechanism: CKM_SHA_1, call: C_DigestInit}"],
        "modern-only",
    ),
    (NEEDLESS, ["allow: {mechanism: CKM_AES_GCM}"], ["allow: {call: C_InitToken}"], "no-admin"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "points", "twin", "profiles"), CASES)
def test_each_finding_is_said_at_its_place_and_its_twin_has_none(
    said: str, points: list[str], twin: list[str], profiles: str
) -> None:
    assert findings(*points, profiles=profiles) == [said]
    other = "modern-only" if twin == points else profiles
    assert findings(*twin, profiles=other) == []


@pytest.mark.parametrize("on", ["", ", on: payments", ", on: tls"])
def test_an_accelerators_rule_is_a_rule_like_others(on: str) -> None:
    assert findings(f"deny: {{mechanism: CKM_SHA_1}}{on}") == []


def test_a_policy_without_control_points_has_none() -> None:
    assert check(parse("version: 1\nrequests: {profiles: [no-export, modern-only]}\n")) == ()


# --- that it is true, beside requests of all kinds

MECHANISM_NAMES = ["CKM_RSA_PKCS", "CKM_SHA_1", "CKM_AES_KEY_GEN", "CKM_AES_KEY_WRAP"]
CALL_NAMES = ["C_SignInit", "C_GenerateKey", "C_WrapKey", "C_CopyObject", "C_Login", "C_DigestInit"]
VALUES: dict[str, list[str]] = {
    "CKA_EXTRACTABLE": ["true", "false", '"!true"', '"!false"'],
    "CKA_MODULUS_BITS": ["2048", '"<3072"', "1024..2048", '">=2048"', '"!2048"', '"!<3072"', "[1024, 4096]"],
    "CKA_LABEL": ["test", '"test*"', '"*"', '"!test"', '"!*st"', "[test, test-1]"],
    "CKA_KEY_TYPE": ["CKK_RSA", "[CKK_RSA, CKK_EC]", '"!CKK_RSA"', '["!CKK_RSA", "!CKK_EC"]'],
}
ASKED: dict[int, list[bool | int | bytes]] = {
    0x162: [True, False],
    0x121: [512, 1024, 1500, 2048, 3071, 3072, 4096],
    3: [b"", b"test", b"test-1", b"best"],
    0x100: [0, 3, 0x1F],
}


def some(words: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(words), max_size=2, unique=True)


@st.composite
def points(draw: st.DrawFn) -> str:
    parts = []
    for key, words in (("call", CALL_NAMES), ("mechanism", MECHANISM_NAMES)):
        if named := draw(some(words)):
            parts.append(f"{key}: [{', '.join(named)}]")
    for where in ("template", "key"):
        attributes = draw(some(list(VALUES)))
        given = ", ".join(f"{name}: {draw(st.sampled_from(VALUES[name]))}" for name in attributes)
        parts += [f"{where}: {{{given}}}"] if given else []
    effect = draw(st.sampled_from(["deny", "deny", "allow"]))
    on = draw(st.sampled_from(["", "", ", on: payments", ", on: tls"]))
    return f"{effect}: {{{', '.join(parts) or 'call: C_Login'}}}{on}"


templates = st.fixed_dictionaries(
    {}, optional={attribute: st.sampled_from(values) for attribute, values in ASKED.items()}
)


@st.composite
def questions(draw: st.DrawFn) -> Question:
    """A call as it can be: without what no such call has."""
    question = Question(
        draw(st.sampled_from([*CALL_NAMES, "C_MessageSignInit", "C_DestroyObject"])),
        MECHANISMS[draw(st.sampled_from(MECHANISM_NAMES))],
        draw(templates),
        draw(templates),
        draw(st.sampled_from([None, "payments", "tls"])),
    )
    wrong = {part for part, _ in wrong_parts(question)}
    return Question(
        question.call,
        None if "mechanism" in wrong else question.mechanism,
        {} if "template" in wrong else question.template,
        {} if "key" in wrong else question.key,
        question.on,
    )


def decided(
    points: ControlPoints, question: Question, template: Template
) -> tuple[bool, ControlPoint | None]:
    decision = points.decide(question.call, question.mechanism, template, question.key, question.on)
    return decision.allowed, decision.point


@given(
    st.lists(points(), min_size=1, max_size=4),
    st.sampled_from(["", "no-export", "no-admin", "modern-only"]),
    st.lists(questions(), min_size=1, max_size=20),
)
def test_what_is_said_holds_for_every_call(texts: list[str], profiles: str, asked: list[Question]) -> None:
    policy = policy_of(*texts, profiles=profiles)
    codes = {remark.finding.line: remark.code for remark in check(policy)}
    every = policy.control_points
    for point in policy.own_points:
        code = codes.get(point.line)
        without = ControlPoints(one for one in every.points if one is not point)
        for question in asked if code is not None else ():
            for template in judged(question):
                allowed, by = decided(every, question, template)
                assert decided(without, question, template)[0] == allowed, (
                    "without the point nothing else is decided"
                )
                if code != "allow-needless":
                    assert by != point


# Every point of a small world, held against every other with every question of that world.

SIGN, GENERATE, LOGIN = "C_SignInit", "C_GenerateKey", "C_Login"
SHA, AES, GCM = (MECHANISMS[f"CKM_{name}"] for name in ("SHA_1", "AES_KEY_GEN", "AES_GCM"))
OPEN, SHUT = ({0x162: value} for value in (True, False))
EXTRACTABLE = (Condition(0x162, "CKA_EXTRACTABLE: true", (Is(True),)),)
NAMED_CALLS = [frozenset[str](), frozenset({SIGN}), frozenset({SIGN, GENERATE}), frozenset({LOGIN, SIGN})]
NAMED_MECHANISMS = [frozenset[int](), frozenset({SHA}), frozenset({SHA, AES})]
WORLD = [
    ControlPoint("x", "deny", calls, mechanisms, template, key, on)
    for calls, mechanisms, template, key, on in product(
        NAMED_CALLS, NAMED_MECHANISMS, [(), EXTRACTABLE], [(), EXTRACTABLE], [None, "payments"]
    )
]
QUESTIONS = [
    question
    for call, mechanism, template, key, on in product(
        [SIGN, GENERATE, LOGIN, "C_CopyObject"],
        [None, SHA, AES, GCM],
        [{}, OPEN, SHUT],
        [{}, OPEN, SHUT],
        [None, "payments"],
    )
    if not list(wrong_parts(question := Question(call, mechanism, template, key, on)))
]


def matching(point: ControlPoint, questions: list[Question]) -> frozenset[int]:
    return frozenset(
        number
        for number, asked in enumerate(questions)
        if point.concerns(asked.call, asked.mechanism, asked.on) and point.matches(asked.template, asked.key)
    )


def test_one_point_covers_another_exactly_where_it_matches_all_that_the_other_does() -> None:
    matched = [matching(point, QUESTIONS) for point in WORLD]
    assert len(QUESTIONS) > 40
    covered = 0
    for (wide, its), (narrow, others) in product(zip(WORLD, matched, strict=True), repeat=2):
        if covers(wide, narrow):
            covered += 1
            assert others <= its
        elif (
            wide.calls and narrow.calls and others
        ):  # of calls that are not named nobody knows what they have
            assert not others <= its
        if apart(wide, narrow):
            assert not its & others
    assert covered > 1000


@pytest.mark.parametrize("attribute", VALUES)
def test_one_condition_follows_from_another_only_where_no_value_says_otherwise(attribute: str) -> None:
    number = ATTRIBUTES[attribute]
    spelt = [f"deny: {{key: {{{attribute}: {wanted}}}}}" for wanted in VALUES[attribute]]
    points = policy_of(*spelt).own_points
    followed = set()
    for wide, narrow in product(points, repeat=2):
        meeting = [
            {value for value in ASKED[number] if one.matches({}, {number: value})} for one in (narrow, wide)
        ]
        if covers(wide, narrow):
            followed.add((wide.name, narrow.name))
            assert meeting[0] <= meeting[1]
    assert {(point.name, point.name) for point in points} < followed


def test_a_point_that_is_said_never_to_decide_decides_nothing_and_any_other_that_is_asked_does() -> None:
    small = [
        ControlPoint(name, effect, calls, mechanisms, (), key, on)
        for name, (effect, calls, mechanisms, key, on) in zip(
            map(str, range(1000)),
            product(["deny", "allow"], NAMED_CALLS[:3], NAMED_MECHANISMS[:2], [(), EXTRACTABLE], [None, "payments"]),
            strict=False,
        )
    ]  # fmt: skip
    found = 0
    for one, other in product(small, repeat=2):
        if one is other:
            continue
        points = ControlPoints([one, other])
        policy = Policy((), "p.yaml", b"", control_points=points)
        said = {point.name for point, code, _ in about_points(policy) if code == "point-never-decides"}
        deciding = set()
        for asked in QUESTIONS:
            by = points.decide(asked.call, asked.mechanism, asked.template, asked.key, asked.on).point
            deciding |= {by.name} if by is not None else set()
        assert not said & deciding
        found += len(said)
        if one.calls and other.calls:
            assert said == {one.name, other.name} - deciding
    assert found > 100


def test_every_point_covers_itself_and_a_narrower_one() -> None:
    for text in (
        "deny: {call: C_SignInit}",
        'deny: {key: {CKA_LABEL: "a*b", CKA_MODULUS_BITS: ["!1..5", "!7"]}}',
    ):
        (point,) = policy_of(text).own_points
        assert covers(point, point)


@pytest.mark.parametrize("wanted", ["l{}", '"l{}*"'])
def test_a_heap_of_points_is_looked_at_quickly(wanted: str) -> None:
    """Ten thousand that name values, which nobody can hold each against each; fewer that name patterns."""
    count = 10_000 if "*" not in wanted else 1_000
    heap = [
        f"name: x{number}, deny: {{call: C_SignInit, key: {{CKA_LABEL: {wanted.format(f'{number:05}')}}}}}"
        for number in range(count)
    ]
    policy = policy_of(*heap)
    began = time.process_time()
    assert check(policy) == ()
    assert time.process_time() - began < 10
