"""A shipped policy is changed in one place at a time; whatever changes a decision is noticed by its own tools.

A mutant is noticed where it does not load, where `check` has a finding (a `never` that can happen is one) or where a case
fails. One that nobody notices must be equivalent: shown over all HSMs there can be, not by samples.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.policy.mutation import Mutant, mutants
from tests.policy.small_domain import SECRETS, inventories, policies

from keyvisor_policy import DocumentError, Hsm, Policy, Rule, SecretId, parse
from keyvisor_policy.control_points import ControlPoint
from keyvisor_policy.lint import check
from keyvisor_policy.point_cover import apart
from keyvisor_policy.prove import equal
from keyvisor_policy.regions import Box, intersect, of_pattern
from keyvisor_policy.trials import run

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "configs" / "policies").glob("*.yaml"))
LEAST = (
    200  # that load and of which not even one has to change what may be: count and order change who is first
)

Verdict = Literal["does not load", "check", "prove", "test", "equivalent", "missed"]

# What decides nothing, or stands in `associated` or `controlled` below; every other field of a policy counts as it is written.
ASIDE = {"rules", "source", "digest", "never", "cases", "control_points"}


def verdict(mutant: Mutant, shipped: Policy) -> Verdict:
    try:
        policy = parse(mutant.text, "mutant.yaml")
    except DocumentError:
        return "does not load"
    codes = {remark.code for remark in check(policy)}
    if codes - {"never-can-happen"}:
        return "check"
    if codes:
        return "prove"
    if not all(trial.passed for trial in run(policy)):
        return "test"
    return "equivalent" if decides_alike(policy, shipped) else "missed"


def decides_alike(one: Policy, other: Policy) -> bool:
    """Surely, for every inventory, every secret and every call; of two that are hard to tell apart it says that they differ."""
    return (
        all(proof.proved for proof in equal(one, other))
        and associated(one) == associated(other)
        and controlled(one) == controlled(other)
        and beside(one) == beside(other)
    )


def associated(policy: Policy) -> frozenset[tuple[object, ...]]:
    """The rules as `assign` sees them: regions, secrets and counts, in order where order can matter at all.

    It can among rules that may want the same HSM, or that hang together by others that do; between two such groups none
    ever takes an HSM from the other. A rule that no HSM can match is unmet wherever it stands.
    """
    groups: list[list[tuple[int, Rule, Box | None]]] = []
    for number, rule in enumerate(policy.rules):
        box = of_pattern(rule.hsm)
        joined = [group for group in groups if box is not None and any(meet(box, its) for *_, its in group)]
        groups = [group for group in groups if group not in joined]
        groups.append(sorted([*(one for group in joined for one in group), (number, rule, box)], key=place))
    return frozenset(
        tuple((rule.name, box, rule.secret and rule.secret.id, rule.count) for _, rule, box in group)
        for group in groups
    )


def controlled(policy: Policy) -> tuple[object, ...]:
    """The control points as `decide` sees them, without where they stand; and which of two is first that may contend.

    Two with the same effect do that some call could be about both. Who is first of all that match is told by the pairs.
    """
    own = policy.own_points
    pairs = {
        (meant(one), meant(other))
        for number, other in enumerate(own)
        for one in own[:number]
        if contend(one, other)
    }
    others = [point for point in policy.control_points.points if point.profile is not None]
    return frozenset(map(meant, own)), frozenset(pairs), tuple(map(meant, others))


def contend(one: ControlPoint, other: ControlPoint) -> bool:
    return one.effect == other.effect and not apart(one, other)


def meant(point: ControlPoint) -> tuple[object, ...]:
    conditions = [
        frozenset((one.attribute, frozenset(one.one_of), one.negated) for one in its)
        for its in (point.template, point.key)
    ]
    return point.label, point.effect, point.calls, point.mechanisms, *conditions, point.on


def place(entry: tuple[int, Rule, Box | None]) -> int:
    return entry[0]


def meet(one: Box, other: Box | None) -> bool:
    return other is not None and intersect(one, other) is not None


def beside(policy: Policy) -> dict[str, str]:
    """All else that may decide, as it is written, without where it stands."""
    fields: dict[str, Any] = {
        field.name: getattr(policy, field.name)
        for field in dataclasses.fields(policy)
        if field.name not in ASIDE
    }
    return {name: re.sub(r"\b(line|column)=\d+", "", repr(value)) for name, value in fields.items()}


@pytest.fixture(params=SHIPPED, ids=lambda path: path.stem)
def shipped(request: pytest.FixtureRequest) -> str:
    text: str = request.param.read_text(encoding="utf-8")
    return text


def test_a_policy_is_shipped() -> None:
    assert SHIPPED


def test_a_shipped_policy_is_clean_proved_and_tested(shipped: str) -> None:
    policy = parse(shipped, "shipped.yaml")
    assert check(policy) == ()
    assert [trial.differences for trial in run(policy) if not trial.passed] == []
    assert policy.never
    assert policy.cases


def test_every_mutant_that_changes_a_decision_is_noticed(shipped: str) -> None:
    policy = parse(shipped, "shipped.yaml")
    made = list(mutants(shipped))
    verdicts = [verdict(mutant, policy) for mutant in made]
    missed = [mutant.what for mutant, found in zip(made, verdicts, strict=True) if found == "missed"]
    assert missed == []
    counted = Counter(verdicts)
    assert Counter(mutant.what.partition(".")[0] for mutant in made).keys() >= {"associations", "requests"}
    assert counted["check"] + counted["prove"] + counted["test"] >= LEAST
    assert {mutant.kind for mutant in made} >= {"operator", "bound", "constant", "order"}


@pytest.mark.parametrize("part", ["never", "cases"])
def test_without_its_assertions_or_its_cases_mutants_of_the_policy_are_missed(
    shipped: str, part: str
) -> None:
    bare = re.sub(rf"^{part}:\n(^[ \n].*\n?)*", "", shipped, flags=re.MULTILINE)
    policy = parse(bare, "shipped.yaml")
    assert not getattr(policy, part)
    assert any(verdict(mutant, policy) == "missed" for mutant in mutants(bare))


@given(st.data(), policies(), inventories(), st.sets(st.sampled_from([secret.id for secret in SECRETS])))
def test_policies_that_decide_alike_plan_alike(
    data: st.DataObject, one: Policy, there: list[Hsm], held: set[SecretId]
) -> None:
    other = dataclasses.replace(one, rules=tuple(data.draw(st.permutations(one.rules))))
    if decides_alike(one, other):
        plans = [policy.assign(there, held) for policy in (one, other)]
        assert plans[0].hsms == plans[1].hsms
        assert {rule.rule.name: rule.met for rule in plans[0].rules} == {
            rule.rule.name: rule.met for rule in plans[1].rules
        }


def test_policies_that_differ_only_in_who_is_first_do_not_decide_alike() -> None:
    def of(*rules: str) -> Policy:
        return parse("version: 1\nassociations:\n" + "".join(f"- {{{rule}}}\n" for rule in rules))

    first, second = "name: a, hsm: {api: '>=4'}", "name: b, hsm: {api: '<=5'}"
    chained = "name: c, hsm: {api: '2..8'}"
    low, high = "name: a, hsm: {api: '<=3'}", "name: b, hsm: {api: '>=7'}"
    assert not decides_alike(of(first, second), of(second, first))
    assert decides_alike(of(low, high), of(high, low))
    assert not decides_alike(of(chained, low, high), of(chained, high, low))
    assert not decides_alike(of(low), of(f"{low}, count: 2"))


def test_policies_whose_calls_another_point_decides_do_not_decide_alike() -> None:
    def of(*points: str) -> Policy:
        return parse("version: 1\nrequests:\n  rules:\n" + "".join(f"  - {{{point}}}\n" for point in points))

    sign = "name: a, deny: {call: C_SignInit}"
    raw = "name: b, deny: {mechanism: CKM_RSA_PKCS}"
    wrap = "name: c, deny: {call: C_WrapKey, mechanism: [CKM_AES_KEY_WRAP, CKM_AES_KEY_WRAP_PAD]}"
    assert not decides_alike(of(sign, raw), of(raw, sign))
    assert decides_alike(of(sign, wrap), of(wrap, sign))
    assert decides_alike(of(raw, wrap, sign), of(raw, sign, wrap))
    assert decides_alike(
        of(wrap), of(wrap.replace("[CKM_AES_KEY_WRAP, ", "[CKM_AES_KEY_WRAP, CKM_AES_KEY_WRAP, "))
    )
    assert not decides_alike(of(wrap), of(wrap.replace("[CKM_AES_KEY_WRAP, ", "[")))
    assert not decides_alike(of(sign), of(sign.replace("deny", "allow")))
