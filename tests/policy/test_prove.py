"""Proofs against brute force over a small domain, and against what `permit` and `assign` do."""

from __future__ import annotations

import dataclasses
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.policy.small_domain import EVERY, SECRETS, inventories, policies

from keyvisor_policy import Hsm, InventoryRefused, NotPermitted, Policy, SecretId, parse
from keyvisor_policy.matching import usable
from keyvisor_policy.prove import Allowed, equal, implies, nevers, newly_allowed, shadowed

IDS = [secret.id for secret in SECRETS]


def allowed(policy: Policy) -> set[tuple[Hsm, SecretId | None]]:
    """Everything that is allowed, by looking at every HSM of the small domain."""
    return {
        (hsm, rule.secret.id if rule.secret else None)
        for rule in policy.rules
        for hsm in EVERY
        if usable(hsm, rule.hsm)
    }


def permits(policy: Policy, hsm: Hsm, secret: SecretId) -> bool:
    try:
        policy.permit(hsm, secret)
    except NotPermitted:
        return False
    return True


def really(policy: Policy, example: Allowed) -> None:
    """The policy itself says that this is allowed, and by which rule."""
    if example.secret_id is not None:
        assert policy.permit(example.hsm, example.secret_id) is example.rule
    else:
        binds = [rule for rule in policy.rules_for(example.hsm) if rule.secret is None]
        assert binds[0] is example.rule


@given(policies())
def test_a_never_is_proved_exactly_where_nothing_forbidden_is_allowed(policy: Policy) -> None:
    proofs = nevers(policy)
    assert len(proofs) == len(policy.never)
    for never, proof in zip(policy.never, proofs, strict=True):
        assert proof.proved == (not any(never.forbids(*one) for one in allowed(policy)))
        if proof.counterexample is not None:
            really(policy, proof.counterexample)
            assert never.forbids(proof.counterexample.hsm, proof.counterexample.secret_id)


@given(policies(), inventories(), st.sets(st.sampled_from(IDS)))
def test_assign_never_plans_what_is_proved_never_to_be(
    policy: Policy, there: list[Hsm], held: set[SecretId]
) -> None:
    by_apqn = {hsm.apqn: hsm for hsm in there}
    for outcome in policy.assign(there, held).hsms:
        for never, proof in zip(policy.never, nevers(policy), strict=True):
            if proof.proved and outcome.rule is not None:
                secret = outcome.rule.secret.id if outcome.rule.secret else None
                assert not never.forbids(by_apqn[outcome.apqn], secret)


@given(policies(), policies())
def test_a_policy_implies_another_exactly_where_that_allows_all_the_same(new: Policy, old: Policy) -> None:
    proof = implies(new, old)
    assert proof.proved == (allowed(new) <= allowed(old))
    both = equal(new, old)
    assert (both[0].proved and both[1].proved) == (allowed(new) == allowed(old))
    examples = newly_allowed(new, old)
    assert examples[:1] == (() if proof.counterexample is None else (proof.counterexample,))
    assert {one.secret_id for one in examples} == {secret for _, secret in allowed(new) - allowed(old)}
    for example in examples:
        really(new, example)
        if example.secret_id is not None:
            assert not permits(old, example.hsm, example.secret_id)
        else:
            assert all(rule.secret is not None for rule in old.rules_for(example.hsm))


@given(policies())
def test_a_policy_allows_what_it_allows_in_any_order(policy: Policy) -> None:
    backwards = dataclasses.replace(policy, rules=policy.rules[::-1])
    assert all(proof.proved for proof in equal(policy, backwards))
    assert newly_allowed(policy, dataclasses.replace(policy, rules=())) != () or not policy.rules


@given(policies())
def test_a_rule_is_shadowed_exactly_where_earlier_ones_match_all_that_it_matches(policy: Policy) -> None:
    for number, rule in enumerate(policy.rules):
        own = {hsm for hsm in EVERY if usable(hsm, rule.hsm)}
        takers = [one for one in policy.rules[:number] if one.count in (1, None)]
        taken = {hsm for one in takers for hsm in EVERY if usable(hsm, one.hsm)}
        shadow = shadowed(policy, rule)
        assert (shadow.alone is None) == (own <= taken)
        if shadow.alone is None:
            by = {hsm for one in shadow.by for hsm in EVERY if usable(hsm, one.hsm)}
            assert set(shadow.by) <= set(takers)
            assert own <= by
            assert shadow.hsm is not None
            assert usable(shadow.hsm, rule.hsm)


@given(policies())
def test_a_rule_that_is_not_shadowed_has_the_hsm_that_is_shown(policy: Policy) -> None:
    for rule in policy.rules:
        alone = shadowed(policy, rule).alone
        if alone is not None and rule.count in (1, None):
            (outcome,) = policy.assign([alone], IDS).hsms
            assert outcome.rule is rule


@given(policies(), inventories())
def test_a_shadowed_rule_has_only_what_earlier_rules_leave(policy: Policy, there: list[Hsm]) -> None:
    plan = policy.assign(there, IDS)
    by_apqn = {hsm.apqn: hsm for hsm in there}
    for number, outcome in enumerate(plan.rules):
        if shadowed(policy, outcome.rule).alone is not None:
            continue
        for hsm in outcome.hsms:
            earlier = [one for one in plan.rules[:number] if usable(by_apqn[hsm.apqn], one.rule.hsm)]
            takers = [one for one in earlier if one.rule.count in (1, None)]
            assert takers
            assert all(one.met for one in takers)
        assert len(there) > 1 or not outcome.hsms


M, N = "mkvp: 11111111111111111111111111111111", "mkvp: 22222222222222222222222222222222"


def policy(*rules: str, never: str = "") -> Policy:
    associations = "associations:\n" + "".join(f"- {{{rule}}}\n" for rule in rules) if rules else ""
    nevers = f"never:\n- {{{never}}}\n" if never else ""
    return parse(f"version: 1\n{associations}{nevers}", "p.yaml")


NOT_M = "mkvp: '!11111111111111111111111111111111'"


@pytest.mark.parametrize(
    ("never", "rule", "twin"),
    [
        (f"secret: a, hsm: {{{NOT_M}}}", f"name: x, secret: a, hsm: {{{M}}}", "name: x, secret: a, hsm: {}"),
        (f"secret: a, hsm: {{{M}}}", "name: x, secret: b, hsm: {}", "name: x, secret: a, hsm: {}"),
        (
            "hsm: {firmware: '!>=8.0'}",
            "name: x, hsm: {firmware: '>=8.0'}",
            "name: x, hsm: {firmware: '>=7.99999'}",
        ),
        (
            "hsm: {generation: '<=CEX7'}",
            "name: x, hsm: {generation: '==CEX8'}",
            "name: x, hsm: {mode: accel}",
        ),
        ("hsm: {api: '!3..5'}", "name: x, hsm: {api: '4..5'}", "name: x, hsm: {api: '4..6'}"),
        (
            "hsm: {serial: '!AAAAAAAAAAAAAAAA'}",
            "name: x, hsm: {serial: AAAAAAAAAAAAAAAA}",
            "name: x, hsm: {serial: aAAAAAAAAAAAAAAA}",
        ),
        (
            "hsm: {compliance: ['!fips']}",
            "name: x, hsm: {compliance: [fips, bsi]}",
            "name: x, hsm: {compliance: [bsi]}",
        ),
        (
            "hsm: {mode: ep11, compliance: [fips]}",
            "name: x, hsm: {mode: accel, compliance: [fips]}",
            "name: x, hsm: {compliance: [bsi]}",
        ),
        ("secret: a", "name: x, secret: b, hsm: {}", "name: a, hsm: {}"),
        ("hsm: {mode: accel}", "name: x, hsm: {}", "name: x, hsm: {mode: accel}"),
        ("hsm: {mode: ep11}", "name: x, hsm: {mode: accel}", "name: x, hsm: {}"),
    ],
)
def test_each_field_of_a_never_and_the_twin_that_can_happen(never: str, rule: str, twin: str) -> None:
    assert nevers(policy(rule, never=never))[0].proved
    assert not nevers(policy(twin, never=never))[0].proved


def test_two_rules_shadow_a_third_together_and_neither_alone() -> None:
    third = "name: z, secret: c, hsm: {api: '>=2'}"
    low, high = "name: x, secret: a, hsm: {api: '<=5'}", "name: w, secret: b, hsm: {api: '>=6'}"
    other = f"name: o, secret: a, hsm: {{{N}}}"
    both = policy(low, other, high, third)
    shadow = shadowed(both, both.rules[3])
    assert shadow.alone is None
    assert [rule.name for rule in shadow.by] == ["x", "w"]
    for missing, api in ((low, 2), (high, 6)):
        twin = policy(*({low, high} - {missing}), third)
        alone = shadowed(twin, twin.rules[1]).alone
        assert alone is not None
        assert alone.api == api
    many = policy(low.replace("}", "}, count: 2"), high, third)
    assert shadowed(many, many.rules[2]).alone is not None


def test_all_counts_rules_may_leave_an_hsm_to_a_shadowed_rule_but_never_the_only_one() -> None:
    two = policy("name: x, secret: a, hsm: {}, count: all", "name: w, secret: b, hsm: {}")
    assert shadowed(two, two.rules[1]).alone is None
    hsm = Hsm("03.0001", "ep11", 8, mkvp=b"\1" * 16)
    assert [len(one.hsms) for one in two.assign([hsm], IDS).rules] == [1, 0]
    second = dataclasses.replace(hsm, apqn="04.0001")
    assert [len(one.hsms) for one in two.assign([hsm, second], IDS).rules] == [1, 1]


def test_the_counterexample_is_of_the_first_rule_whatever_its_secret() -> None:
    both = policy("name: x, secret: b, hsm: {}", "name: z, secret: a, hsm: {}", never="hsm: {api: '>=4'}")
    (proof,) = nevers(both)
    assert proof.counterexample is not None
    assert proof.counterexample.rule.name == "x"


def test_an_empty_policy_allows_nothing() -> None:
    empty, full = policy(), policy("name: x, hsm: {}")
    assert implies(empty, full).proved
    assert not implies(full, empty).proved
    assert nevers(policy(never="hsm: {api: '>=0'}"))[0].proved


def test_ten_thousand_rules_are_proved_in_seconds() -> None:
    lines = [
        f"- {{name: r{n}, secret: s{n % 50}, hsm: {{mkvp: '{n % 2500 + 1:032x}', api: '>={n % 7}'}}}}\n"
        for n in range(10_000)
    ]
    never = (
        "never:\n"
        + "".join(
            f"- {{secret: s{n}, hsm: {{mkvp: '!{n + 1:032x}', firmware: '<=1.0', compliance: ['!x']}}}}\n"
            for n in range(20)
        )
        + "- {hsm: {mode: accel}}\n- {hsm: {mkvp: '00000000000000000000000000009999'}}\n"
    )
    big = parse("version: 1\nassociations:\n" + "".join(lines) + never)
    wide = dataclasses.replace(
        big,
        rules=tuple(
            dataclasses.replace(rule, hsm=dataclasses.replace(rule.hsm, api=None)) for rule in big.rules
        ),
    )
    begun = time.perf_counter()
    proofs = nevers(big)
    assert implies(big, wide).proved
    assert len(newly_allowed(wide, big)) == 50
    assert [rule.name for rule in shadowed(big, big.rules[-1]).by] == ["r2499"]
    assert time.perf_counter() - begun < 30
    assert [proof.proved for proof in proofs[-2:]] == [True, True]
    assert not any(proof.proved for proof in proofs[:-2])


def test_a_card_with_one_master_key_twice_is_still_refused_by_assign() -> None:
    twice = [Hsm(f"03.000{n}", "ep11", 8, mkvp=b"\1" * 16) for n in (1, 2)]
    with pytest.raises(InventoryRefused):
        policy("name: x, hsm: {}").assign(twice, IDS)
