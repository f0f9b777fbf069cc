"""The findings of `policy check`: for each code a policy that has it, and its twin that has not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.policy.test_lint_points import CASES as POINT_CASES

from keyvisor_policy import Hsm, Interval, Pattern, parse, secret_id
from keyvisor_policy.lint import CODES, check
from keyvisor_policy.matching import covers, usable

S, M = "serial: AAAAAAAAAAAAAAAA", "mkvp: 11111111111111111111111111111111"
ID = f"secret_id: 0x{secret_id('a').hex()}"

# (code, what is said, the rules that have it, the rules of the twin)
CASES: list[tuple[str, str, list[str], list[str]]] = [
    (
        "never-matches",
        "rule `x` asks an accelerator for an MKVP, which none has; remove `mkvp`",
        [f"name: x, hsm: {{mode: accel, {M}}}"],
        [f"name: x, hsm: {{mode: ep11, {M}}}"],
    ),
    (
        "never-met",
        "rule `x` wants 2 HSMs, but one card has its master key once; remove `serial`",
        [f"name: x, hsm: {{{S}, {M}}}, count: 2"],
        [f"name: x, hsm: {{{M}}}, count: 2"],
    ),
    (
        "never-met",
        "rule `z` can match no HSM but the one that rule `x` has; remove one of them",
        [f"name: x, secret: a, hsm: {{{S}, {M}}}", f"name: z, secret: a, hsm: {{{S}, {M}, api: '>=4'}}"],
        [f"name: x, secret: a, hsm: {{{S}, {M}, api: '>=4'}}", f"name: z, secret: a, hsm: {{{S}, {M}}}"],
    ),
    (
        "shadowed",
        "rule `z` can have no HSM that rule `x` does not want first; put the narrower rule first",
        ["name: x, hsm: {}", f"name: z, hsm: {{{M}}}"],
        [f"name: z, hsm: {{{M}}}", "name: x, hsm: {}"],
    ),
    (
        "ambiguous-priority",
        "rule `z` wants the HSMs of rule `x`, so that only their order decides; tell them apart",
        [f"name: x, hsm: {{{M}}}", f"name: z, hsm: {{{M}}}"],
        [f"name: x, hsm: {{{M}}}", f"name: z, hsm: {{{S}}}"],
    ),
    (
        "rule-twice",
        "rule `z` wants what rule `x` wants; say it once, with `count`",
        [f"name: x, secret: a, hsm: {{{M}}}", f"name: z, secret: a, hsm: {{{M}}}"],
        [f"name: x, secret: a, hsm: {{{M}}}, count: 2"],
    ),
    (
        "no-effect",
        "rule `z` wants nothing that rule `x` does not take anyway; remove it",
        ["name: x, secret: a, hsm: {}, count: all", f"name: z, secret: a, hsm: {{{S}}}"],
        ["name: x, secret: a, hsm: {generation: '>=CEX8'}, count: all", f"name: z, secret: a, hsm: {{{S}}}"],
    ),
    (
        "secret-twice",
        "rule `z` gives by id the secret `a` of rule `x`; give its name",
        [f"name: x, secret: a, hsm: {{{M}}}", f"name: z, {ID}, hsm: {{{S}}}"],
        [f"name: x, secret: b, hsm: {{{M}}}", f"name: z, {ID}, hsm: {{{S}}}"],
    ),
    (
        "secret-confused",
        "rule `a` is called like the secret of rule `x` but has another; rename it",
        [f"name: x, secret: a, hsm: {{{M}}}", f"name: a, secret: b, hsm: {{{S}}}"],
        [f"name: x, secret: a, hsm: {{{M}}}", f"name: c, secret: b, hsm: {{{S}}}"],
    ),
]


# (code, what is said, the never that has it, the never of the twin), all beside one rule
NEVERS: list[tuple[str, str, str, str]] = [
    (
        "never-can-happen",
        (
            "`never` can happen: rule `x` in line 3 allows secret `x` on {apqn: 00.0000, mode: ep11, generation: CEX8,"
            " mkvp: 0x00000000000000000000000000000001, serial: AAAAAAAAAAAAAAAA}; narrow the rule"
        ),
        "secret: x, hsm: {mkvp: '!11111111111111111111111111111111'}",
        "secret: x, hsm: {serial: '!AAAAAAAAAAAAAAAA'}",
    ),
    (
        "never-empty",
        "`never` `n1` describes no HSM there can be, so that it forbids nothing; widen it",
        "name: n1, hsm: {generation: '!CEX4..CEX8'}",
        "name: n1, hsm: {generation: '!>=CEX8', serial: BBBBBBBBBBBBBBBB}",
    ),
]


@pytest.mark.parametrize(("code", "said", "never", "twin"), NEVERS)
def test_each_finding_about_a_never_and_the_twin_without_it(
    code: str, said: str, never: str, twin: str
) -> None:
    rule = f"version: 1\nassociations:\n- {{name: x, hsm: {{{S}}}}}\nnever:\n"
    (remark,) = check(parse(f"{rule}- {{{never}}}\n", "p.yaml"))
    assert str(remark) == f"p.yaml:5:3: {said} [{code}]"
    assert check(parse(f"{rule}- {{{twin}}}\n")) == ()


def remarks(rules: list[str]) -> list[tuple[str, str]]:
    policy = parse("version: 1\nassociations:\n" + "".join(f"- {{{rule}}}\n" for rule in rules), "p.yaml")
    return [(remark.code, remark.finding.message) for remark in check(policy)]


@pytest.mark.parametrize(("code", "said", "rules", "twin"), CASES)
def test_each_finding_and_the_twin_without_it(
    code: str, said: str, rules: list[str], twin: list[str]
) -> None:
    assert remarks(rules) == [(code, said)]
    assert remarks(twin) == []


def test_of_several_rules_that_cover_another_the_first_is_named() -> None:
    narrow = f"name: z, hsm: {{{S}, api: '>=4'}}"
    wide, by_serial = "name: w, hsm: {}", f"name: x, hsm: {{{S}}}"
    said = "rule `z` can have no HSM that rule `{}` does not want first; put the narrower rule first"
    assert remarks([by_serial, wide, narrow]) == [("shadowed", said.format("x"))]
    assert remarks([wide, by_serial, narrow])[-1] == ("shadowed", said.format("w"))


def test_every_code_has_a_case() -> None:
    of_points = {re.findall(r"\[(.+?)\]$", said)[0] for said, *_ in POINT_CASES}
    assert {code for code, *_ in [*CASES, *NEVERS]} | of_points | {"invalid"} == set(CODES)


def test_findings_stand_at_their_rule_with_their_code() -> None:
    policy = parse(f"version: 1\nassociations:\n- {{name: x, hsm: {{mode: accel, {M}}}}}\n", "p.yaml")
    (remark,) = check(policy)
    said = (
        "p.yaml:3:3: rule `x` asks an accelerator for an MKVP, which none has; remove `mkvp` [never-matches]"
    )
    assert str(remark) == said


def test_pvapconfig_lists_are_looked_at_too() -> None:
    entry = "- {mode: EP11, name: a, mkvp: 11111111111111111111111111111111}\n"
    assert [remark.code for remark in check(parse(entry * 2))] == ["rule-twice"]


patterns = st.builds(
    Pattern,
    mode=st.sampled_from(["ep11", "accel"]),
    mkvp=st.sampled_from([None, b"\1" * 16]),
    serial=st.sampled_from([None, "A" * 16]),
    generation=st.one_of(
        st.none(), st.builds(Interval, st.sampled_from([None, 5]), st.sampled_from([None, 7]))
    ),
    api=st.one_of(st.none(), st.builds(Interval, st.sampled_from([None, 5]), st.sampled_from([None, 7]))),
    compliance=st.frozensets(st.sampled_from(["fips", "bsi"])),
)
hsms = st.builds(
    Hsm,
    apqn=st.just("00.0001"),
    mode=st.sampled_from(["ep11", "accel"]),
    generation=st.integers(4, 8),
    serial=st.sampled_from(["A" * 16, "B" * 16]),
    mkvp=st.sampled_from([b"\1" * 16, b"\2" * 16]),
    api=st.integers(4, 8),
    compliance=st.frozensets(st.sampled_from(["fips", "bsi"])),
)


@given(patterns, patterns, hsms)
def test_a_pattern_that_covers_another_matches_all_that_it_matches(
    wide: Pattern, narrow: Pattern, hsm: Hsm
) -> None:
    if covers(wide, narrow) and usable(hsm, narrow):
        assert usable(hsm, wide)


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        (Pattern("ep11"), Pattern("ep11", mkvp=b"\1" * 16)),
        (Pattern("ep11"), Pattern("ep11", serial="A" * 16)),
        (Pattern("ep11", generation=Interval(6, None)), Pattern("ep11", generation=Interval(6, 7))),
        (Pattern("ep11", generation=Interval(None, 7)), Pattern("ep11", generation=Interval(6, 7))),
        (Pattern("ep11"), Pattern("ep11", firmware=Interval((8, 0), None))),
        (Pattern("ep11"), Pattern("ep11", api=Interval(4, 4))),
        (
            Pattern("ep11", compliance=frozenset({"fips"})),
            Pattern("ep11", compliance=frozenset({"fips", "bsi"})),
        ),
    ],
)
def test_a_pattern_covers_what_is_narrower_in_one_field_and_not_the_other_way(
    wide: Pattern, narrow: Pattern
) -> None:
    assert covers(wide, narrow)
    assert not covers(narrow, wide)
    assert covers(narrow, narrow)
    assert not covers(Pattern("accel"), narrow)
