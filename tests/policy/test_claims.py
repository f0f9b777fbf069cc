"""Proofs in words: an HSM reads back as what it is, and each claim says what came of it."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_policy import Hsm, parse, parse_inventory
from keyvisor_policy.claims import Claim, hsm_text, hsm_value, implies_claim, never_claim, shadow_claim
from keyvisor_policy.prove import implies, nevers, shadowed

texts = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=["C", "Z"]))
hsms = st.builds(
    Hsm,
    apqn=st.just("0a.00ff"),
    mode=st.sampled_from(["ep11", "accel"]),
    generation=st.integers(4, 8),
    serial=texts,
    mkvp=st.none() | st.binary(min_size=16, max_size=16),
    firmware=st.tuples(st.integers(0, 99999), st.integers(0, 99999)),
    api=st.integers(0, 10**9),
    compliance=st.frozensets(texts.filter(bool), max_size=3),
)


@given(hsms)
def test_an_hsm_is_written_as_an_inventory_has_it(hsm: Hsm) -> None:
    assert parse_inventory(f"- {hsm_text(hsm)}\n").hsms == (hsm,)
    assert parse_inventory(json.dumps([hsm_value(hsm)])).hsms == (hsm,)
    assert hsm_text(hsm).isascii()
    assert hsm_text(hsm).isprintable()


def test_what_an_hsm_has_none_of_is_left_out() -> None:
    assert hsm_text(Hsm("03.0011", "accel", 7)) == "{apqn: 03.0011, mode: accel, generation: CEX7}"


RULES = """\
version: 1
associations:
- {name: one, secret: a, hsm: {api: "<=4"}}
- {name: two, secret: b, hsm: {api: "5..6"}}
- {name: low, secret: c, hsm: {api: "==3"}}
- {name: both, secret: c, hsm: {api: "2..6"}}
- {name: fast, hsm: {mode: accel}}
never:
- {secret: a, hsm: {api: ">=5"}}
- {secret: nowhere}
- {name: old ones, hsm: {generation: "!>=CEX4"}}
- {name: slow ones, hsm: {mode: accel, generation: "<=CEX7"}}
"""
POLICY = parse(RULES, "p.yaml")
OLD = parse(RULES[: RULES.index("- {name: fast")], "old.yaml")


def claims() -> list[Claim]:
    claimed = [never_claim(POLICY, *pair) for pair in zip(POLICY.never, nevers(POLICY), strict=True)]
    claimed += [shadow_claim(POLICY, rule, shadowed(POLICY, rule)) for rule in POLICY.rules[2:4]]
    claimed.append(shadow_claim(POLICY, POLICY.rules[4], shadowed(POLICY, POLICY.rules[4])))
    claimed.append(implies_claim(POLICY, OLD, implies(POLICY, OLD)))
    claimed.append(implies_claim(OLD, POLICY, implies(OLD, POLICY)))
    return claimed


EP11 = "{{apqn: 00.0000, mode: ep11, generation: CEX8, mkvp: 0x00000000000000000000000000000001, serial: {}, api: {}}}"
FAST = "{apqn: 00.0000, mode: accel, generation: CEX%d, serial: 0000000000000001}"


def test_every_claim_says_what_came_of_it() -> None:
    low, both = (EP11.format("0000000000000001", api) for api in (3, 2))
    assert [str(claim) for claim in claims()] == [
        "p.yaml:9:3: proved: `never` cannot happen (1 cell looked at)",
        "p.yaml:10:3: proved: `never` cannot happen, but only because no rule has secret `nowhere`",
        "p.yaml:11:3: proved: `never` `old ones` cannot happen, but only because it describes no HSM there can be",
        f"p.yaml:12:3: counterexample: `never` `slow ones` can happen: rule `fast` in line 7 binds {FAST % 7}",
        (
            "p.yaml:5:3: counterexample: rule `low` is shadowed: rule `one` in line 3 matches every HSM of it first, as"
            f" {low}"
        ),
        (
            "p.yaml:6:3: counterexample: rule `both` is shadowed: rules `one` in line 3 and `two` in line 4 together match"
            f" every HSM of it first, as {both}"
        ),
        f"p.yaml:7:3: proved: rule `fast` is not shadowed, no earlier rule has {FAST % 8} first (1 cell looked at)",
        f"p.yaml:7:3: counterexample: rule `fast` in line 7 binds {FAST % 8}, which `old.yaml` refuses",
        "old.yaml:1:1: proved: nothing is allowed that `p.yaml` refuses (4 cells looked at)",
    ]
    assert [claim.proved for claim in claims()] == [
        claim.finding.message.startswith("proved") for claim in claims()
    ]


def test_claims_for_programs_have_the_counterexample_as_data() -> None:
    *_, slow, low, both, fast, implied, _ = claims()
    assert slow.value()["name"] == "slow ones"
    example = slow.value()["counterexample"]
    assert isinstance(example, dict)
    assert example["rule"] == {"file": "p.yaml", "name": "fast", "line": 7}
    assert (example["secret"], example["secret_id"]) == (None, None)
    assert low.value()["by"] == [{"file": "p.yaml", "name": "one", "line": 3}]
    assert both.value()["proved"] is False
    assert fast.value()["by"] == []
    assert implied.value()["claim"] == "implies"


@pytest.mark.parametrize("rules", [4, 5])
def test_no_more_rules_are_named_than_a_line_can_take(rules: int) -> None:
    lines = [f"- {{name: r{n}, hsm: {{api: '{2 * n}..{2 * n + 1}'}}}}\n" for n in range(rules)]
    text = "version: 1\nassociations:\n" + "".join(lines)
    policy = parse(f"{text}- {{name: last, hsm: {{api: '<={2 * rules - 1}'}}}}\n")
    said = str(shadow_claim(policy, policy.rules[-1], shadowed(policy, policy.rules[-1])))
    assert f"rules `r0` in line 3, `r1` in line 4, `r2` in line 5 and {rules - 3} more together match" in said


def test_a_rule_that_no_hsm_can_match_is_no_proof_of_its_own() -> None:
    from keyvisor_policy import Interval

    rule = POLICY.rules[0]
    nothing = dataclasses.replace(
        rule, hsm=dataclasses.replace(rule.hsm, generation=Interval(9, None)), name="x"
    )
    policy = dataclasses.replace(POLICY, rules=(nothing,))
    claim = shadow_claim(policy, nothing, shadowed(policy, nothing))
    assert (claim.proved, claim.finding.message) == (False, "counterexample: no HSM can match rule `x`")
