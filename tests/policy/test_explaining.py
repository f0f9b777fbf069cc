"""`policy explain`: what a rule looks at agrees with what decides, and the answer says what was decided."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_policy import (
    Holding,
    Hsm,
    Interval,
    Inventory,
    NotPermitted,
    Pattern,
    Rule,
    Secret,
    parse,
    secret_id,
)
from keyvisor_policy.explaining import explain_association, explain_plan
from keyvisor_policy.matching import mismatches
from keyvisor_policy.tracing import look

MakeHsm = Callable[..., Hsm]

TEXT = """\
version: 1
associations:
- {name: a, hsm: {generation: "==CEX8"}}
- {name: b, secret: a, hsm: {compliance: [fips2021], firmware: ">=8.0", api: 2..4}, count: all}
- {name: fast, hsm: {mode: accel, serial: 93AADFK719460083}}
"""
POLICY = parse(TEXT, "p.yaml")
A = Secret(secret_id("a"), "a")

patterns = st.builds(
    Pattern,
    mode=st.sampled_from(["ep11", "accel"]),
    mkvp=st.sampled_from([None, b"\1" * 16]),
    serial=st.sampled_from([None, "A" * 16]),
    generation=st.sampled_from([None, Interval(8, None), Interval(None, 7)]),
    firmware=st.sampled_from([None, Interval((8, 0), None)]),
    api=st.sampled_from([None, Interval(4, 4)]),
    compliance=st.frozensets(st.sampled_from(["fips", "bsi"])),
)
hsms = st.builds(
    Hsm,
    apqn=st.just("00.0001"),
    mode=st.sampled_from(["ep11", "accel", "cca"]),
    generation=st.sampled_from([7, 8]),
    serial=st.sampled_from(["A" * 16, "B" * 16, ""]),
    mkvp=st.sampled_from([b"\1" * 16, b"\2" * 16, None]),
    firmware=st.sampled_from([(7, 9), (8, 0)]),
    api=st.sampled_from([3, 4]),
    compliance=st.frozensets(st.sampled_from(["fips", "bsi"])),
    online=st.booleans(),
)


@given(patterns, hsms)
def test_the_fields_that_are_false_are_those_that_differ(pattern: Pattern, hsm: Hsm) -> None:
    looked = list(look(Rule("x", pattern, None), hsm))
    false = {one.field for one in looked if not one.holds}
    differing = {mismatch.field for mismatch in mismatches(hsm, pattern)}
    assert differing <= false
    assert bool(differing) == bool(false)
    # Of an HSM in another mode nobody says that it lacks a master key as well.
    assert false - differing <= ({"mkvp"} if "mode" in differing else set())
    assert len({one.field for one in looked}) == len(looked)


@given(hsms, st.sampled_from([A, Secret(secret_id("fast"), "fast"), Secret(secret_id("z"))]))
def test_the_explanation_says_what_permit_says(hsm: Hsm, secret: Secret) -> None:
    explanation = explain_association(POLICY, hsm, secret)
    try:
        permitted = POLICY.permit(hsm, secret.id)
    except NotPermitted:
        permitted = None
    assert explanation.decided is permitted
    assert ("permitted by" in explanation.verdict) == (permitted is not None)
    assert [trace.rule for trace in explanation.traces] == list(POLICY.rules)
    holding = [trace for trace in explanation.traces if trace.holds]
    assert [trace.outcome for trace in holding] == ["decides", "would allow it too"][: len(holding)]
    assert (holding[0].rule if holding else None) is permitted


@given(st.lists(hsms, min_size=1, max_size=3), st.booleans(), st.booleans())
def test_the_explanation_says_what_the_plan_says(there: list[Hsm], held: bool, bound: bool) -> None:
    named = tuple(
        Hsm(f"0{card}.0001", one.mode, one.generation, one.serial, one.mkvp, online=one.online)
        for card, one in enumerate(there)
    )
    inventory = Inventory(named, {"00.0001": Holding()} if bound else {})
    secrets = {A.id} if held else set()
    plan = POLICY.assign(named, secrets, inventory.current)
    for hsm, outcome in zip(named, plan.hsms, strict=True):
        explanation = explain_plan(POLICY, inventory, secrets, hsm)
        assert explanation.decided is outcome.rule
        deciding = [trace.rule for trace in explanation.traces if trace.outcome == "decides"]
        assert deciding == ([outcome.rule] if outcome.rule else [])
        for trace in explanation.traces:
            passed_over = trace.outcome.startswith(("has all", "the HSM serves"))
            assert trace.holds == (passed_over or trace.outcome == "decides")


def test_an_association_is_explained_rule_by_rule(hsm: MakeHsm) -> None:
    explanation = explain_association(POLICY, hsm(generation=7, api=5), A)
    assert explanation.verdict == "03.0011: secret `a` is refused: no rule allows it"
    assert [trace.outcome for trace in explanation.traces] == [
        "generation differs: `==CEX8` wanted, `CEX7` found",
        "api differs: `2..4` wanted, `5` found",
        "the rule is for accelerators, which are bound and never associated; mode differs: `accel` wanted, `ep11` found",
    ]
    assert [(one.field, one.wanted, one.found, one.holds) for one in explanation.traces[1].looked] == [
        ("secret", "a", "a", True),
        ("online", "online", "online", True),
        ("mode", "ep11", "ep11", True),
        ("mkvp", "a valid master key", "db3c3b3c3f097dd55ec7eb0e7fdbcb93", True),
        ("firmware", ">=8.0", "8.0", True),
        ("api", "2..4", "5", False),
        ("compliance", "fips2021", "bsi2021, fips2021", True),
    ]
    assert (
        explain_association(POLICY, hsm(), A).verdict
        == "03.0011: secret `a` is permitted by rule `a`, p.yaml:3"
    )


@pytest.mark.parametrize(
    ("state", "changes", "verdict", "outcomes"),
    [
        (
            None,
            {},
            "03.0011: bind, associate for rule `a`, p.yaml:3",
            ["decides", "the HSM serves the rule `a`", "mode differs: `accel` wanted, `ep11` found"],
        ),
        (Holding(A.id), {}, "03.0011: keep for rule `a`, p.yaml:3", None),
        (Holding(), {"mode": "cca"}, "03.0011: unbind, no rule gets it", None),
        (None, {"mode": "cca"}, "03.0011: left unbound, no rule gets it", None),
    ],
)
def test_a_plan_is_explained_for_one_hsm(
    state: Holding | None, changes: dict[str, str], verdict: str, outcomes: list[str] | None, hsm: MakeHsm
) -> None:
    one = hsm(**changes)
    current = {} if state is None else {"03.0011": state}
    explanation = explain_plan(POLICY, Inventory((one,), current), {A.id}, one)
    assert explanation.verdict == verdict
    assert outcomes is None or [trace.outcome for trace in explanation.traces] == outcomes


def test_a_rule_that_has_others_enough_says_which(hsm: MakeHsm) -> None:
    there = (hsm("03.0011"), hsm("04.0011", compliance=frozenset()))
    wants = parse("version: 1\nassociations: [{name: a, hsm: {}}]\n")
    explanation = explain_plan(wants, Inventory(there, {}), {A.id}, there[1])
    assert [trace.outcome for trace in explanation.traces] == ["has all that it wants: 03.0011"]
    (trace,) = explain_plan(wants, Inventory(there, {}), (), there[1]).traces
    assert (trace.looked[0].found, trace.looked[0].holds) == ("not held", False)
    assert trace.outcome == "secret `a` is not in the guest's store"
