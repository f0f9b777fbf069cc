"""`prove` and z3 answer alike over random policies, and a `prove` that errs is noticed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.policy.second_opinion import allows_more, can_happen, has_one_alone
from tests.policy.small_domain import SECRETS, either, maybe
from tests.policy.small_domain import policies as small_policies

from keyvisor_policy import Interval, Pattern, Policy, Rule, parse, prove, regions
from keyvisor_policy.never import Description, Never

# Many constants and close to each other: ends that touch, overlap, and leave gaps of one value.
KEYS = [bytes([number]) * 16 for number in (1, 2, 3)]


def intervals(values: st.SearchStrategy[object]) -> st.SearchStrategy[Interval[object]]:
    return st.builds(
        lambda ends, open_end: Interval(
            *(None if at == open_end else end for at, end in enumerate(sorted(ends)))
        ),
        st.tuples(values, values),
        st.sampled_from([None, 0, 1]),
    )


keys, serials = st.sampled_from(KEYS), st.sampled_from(["A" * 16, "B" * 16])
generations, numbers = intervals(st.integers(4, 8)), intervals(st.integers(0, 9))
versions = intervals(st.tuples(st.integers(0, 3), st.integers(0, 3)))
names = st.frozensets(st.sampled_from("xyz"), max_size=2)
modes = st.sampled_from(["ep11", "ep11", "accel"])
patterns = st.builds(
    Pattern, modes, maybe(keys), maybe(serials), maybe(generations), maybe(versions), maybe(numbers), names
)
described = st.builds(
    Description,
    maybe(modes),
    either(keys),
    either(serials),
    either(generations),
    either(versions),
    either(numbers),
    names,
    names,
)


@st.composite
def wide_policies(draw: st.DrawFn) -> Policy:
    rules = [
        Rule(
            f"rule {at}",
            one,
            draw(st.sampled_from(SECRETS)) if one.mode == "ep11" else None,
            draw(st.sampled_from([1, None, 2])),
            at + 1,
        )
        for at, one in enumerate(draw(st.lists(patterns, max_size=6)))
    ]
    never = draw(st.lists(st.builds(Never, described, maybe(st.sampled_from(SECRETS))), max_size=2))
    return Policy(tuple(rules), "p.yaml", b"", never=tuple(never))


policies = small_policies() | wide_policies()


def disagreements(policy: Policy, other: Policy) -> Iterator[str]:
    """Everything in which `prove` and z3 are not of one opinion."""
    for never, proof in zip(policy.never, prove.nevers(policy), strict=True):
        if proof.proved == can_happen(policy, never):
            yield f"never: {never}"
    for number, rule in enumerate(policy.rules):
        if (prove.shadowed(policy, rule).alone is not None) != has_one_alone(policy, number):
            yield f"shadowed: {rule}"
    for new, old, proof in zip((policy, other), (other, policy), prove.equal(policy, other), strict=True):
        if proof.proved == allows_more(new, old):
            yield f"implies: {new} {old}"
    if (not prove.newly_allowed(policy, other)) == allows_more(policy, other):
        yield "newly allowed"


@settings(max_examples=150)
@given(policies, policies)
def test_prove_and_z3_are_of_one_opinion(policy: Policy, other: Policy) -> None:
    assert list(disagreements(policy, other)) == []


@settings(max_examples=50)
@given(wide_policies(), st.data())
def test_prove_and_z3_are_of_one_opinion_about_policies_that_hardly_differ(
    policy: Policy, data: st.DataObject
) -> None:
    if policy.rules:
        at = data.draw(st.integers(0, len(policy.rules) - 1))
        rule = policy.rules[at]
        change = data.draw(
            st.fixed_dictionaries(
                {}, optional={"api": maybe(numbers), "firmware": maybe(versions), "compliance": names}
            )
        )
        changed = dataclasses.replace(rule, hsm=dataclasses.replace(rule.hsm, **change))
        other = dataclasses.replace(policy, rules=(*policy.rules[:at], changed, *policy.rules[at + 1 :]))
        assert list(disagreements(policy, other)) == []


RULES = "version: 1\nassociations:\n- {name: w, secret: a, hsm: {api: '<=5'}}\n- {name: x, secret: a, hsm: {api: '>=6'}}\n"
TOGETHER = parse(
    f"{RULES}- {{name: z, secret: a, hsm: {{}}}}\nnever:\n- {{secret: a, hsm: {{api: '>=6'}}}}\n", "p.yaml"
)
LOW = parse("\n".join(RULES.splitlines()[:3]), "p.yaml")


def test_of_these_two_they_are_of_one_opinion() -> None:
    assert list(disagreements(TOGETHER, LOW)) == []


@pytest.mark.parametrize(
    ("name", "noticed"),
    [("nevers", "never"), ("shadowed", "shadowed"), ("equal", "implies"), ("newly_allowed", "newly allowed")],
)
def test_a_wrong_answer_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str, noticed: str) -> None:
    wrong = {
        "nevers": lambda policy: tuple(prove.Proof(1) for _ in policy.never),
        "shadowed": lambda _policy, _rule: prove.Shadow(1, None),
        "equal": lambda _one, _other: (prove.Proof(1), prove.Proof(1)),
        "newly_allowed": lambda _new, _old: (),
    }
    monkeypatch.setattr(prove, name, wrong[name])
    assert any(found.startswith(noticed) for found in disagreements(TOGETHER, LOW))


def test_a_region_that_ends_one_too_early_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = regions.of_pattern

    def wrong(pattern: Pattern) -> regions.Box | None:
        box = right(pattern)
        if box is None or pattern.api is None or pattern.api.highest is None:
            return box
        return dataclasses.replace(box, api=regions.Ranges(((0, pattern.api.highest),)))

    monkeypatch.setattr(prove, "of_pattern", wrong)
    assert any(found.startswith("shadowed") for found in disagreements(TOGETHER, LOW))
