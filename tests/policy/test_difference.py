"""What changes from one policy to another, and why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.policy.small_domain import SECRETS, inventories, policies

from keyvisor_policy import Hsm, Policy, parse, secret_id
from keyvisor_policy.difference import Difference, difference

MakeHsm = Callable[..., Hsm]
A, B = secret_id("a"), secret_id("b")


def policy(*rules: str) -> Policy:
    text = "associations:\n" + "".join(f"- {{{rule}}}\n" for rule in rules) if rules else ""
    return parse(f"version: 1\n{text}", "p.yaml")


def changed(found: Difference) -> list[tuple[str, str | None, str | None, tuple[str, ...]]]:
    return [
        (
            one.apqn,
            one.was.rule.name if one.was.rule else None,
            one.becomes.rule.name if one.becomes.rule else None,
            one.reasons,
        )
        for one in found.hsms
    ]


@pytest.mark.parametrize(
    ("old", "new", "rules", "reasons"),
    [
        (["name: a, hsm: {}"], [], ("a", None), ("rule `a` is gone",)),
        ([], ["name: a, hsm: {}"], (None, "a"), ("rule `a` is new",)),
        (["name: a, hsm: {}"], ["name: b, hsm: {}"], ("a", "b"), ("rule `a` is gone", "rule `b` is new")),
        (
            ["name: a, hsm: {api: '<=4'}"],
            ["name: a, hsm: {api: '<=3'}"],
            ("a", None),
            ("rule `a` now: api differs: `<=3` wanted, `4` found",),
        ),
        (
            ["name: a, hsm: {api: '<=3'}"],
            ["name: a, hsm: {api: '<=4'}"],
            (None, "a"),
            ("rule `a` before: api differs: `<=3` wanted, `4` found",),
        ),
        (
            ["name: a, secret: a, hsm: {}"],
            ["name: a, secret: b, hsm: {}"],
            ("a", "a"),
            ("rule `a` had secret `a` and has secret `b`",),
        ),
        (
            ["name: a, hsm: {}", "name: b, hsm: {}"],
            ["name: b, hsm: {}", "name: a, hsm: {}"],
            ("a", "b"),
            ("rule `a` gives way to `b`",),
        ),
        (
            ["name: a, hsm: {}"],
            ["name: a, secret: lost, hsm: {}"],
            ("a", None),
            ("rule `a` now: secret `lost` is not in the guest's store",),
        ),
    ],
)
def test_each_change_of_one_hsm_has_its_reason(
    hsm: MakeHsm, old: list[str], new: list[str], rules: tuple[str | None, ...], reasons: tuple[str, ...]
) -> None:
    found = difference(policy(*old), policy(*new), [hsm()], {A, B})
    assert changed(found) == [("03.0011", *rules, reasons)]
    assert not found.same


def test_a_rule_that_has_another_hsm_now(hsm: MakeHsm) -> None:
    there = [hsm("03.0001"), hsm("04.0001", generation=7)]
    found = difference(policy("name: a, hsm: {generation: '<=CEX7'}"), policy("name: a, hsm: {}"), there, {A})
    assert changed(found) == [
        ("03.0001", None, "a", ("rule `a` before: generation differs: `<=CEX7` wanted, `CEX8` found",)),
        ("04.0001", "a", None, ("rule `a` now has 03.0001",)),
    ]
    back = difference(policy("name: a, hsm: {}"), policy("name: a, hsm: {generation: '<=CEX7'}"), there, {A})
    assert changed(back)[1] == ("04.0001", None, "a", ("rule `a` had 03.0001 before",))


def test_rules_that_are_no_longer_met_are_named(hsm: MakeHsm) -> None:
    one, two = policy("name: a, hsm: {}"), policy("name: a, hsm: {}, count: 2")
    (lost,) = difference(one, two, [hsm()], {A}).rules
    assert (lost.name, lost.met) == ("a", False)
    assert lost.reason == "rule `a` wants 2 HSMs and has 1: there are no more HSMs"
    (won,) = difference(two, one, [hsm()], {A}).rules
    assert (won.name, won.met, won.reason) == ("a", True, "")


def test_what_no_hsm_there_shows_is_still_found(hsm: MakeHsm) -> None:
    old, new = policy("name: a, hsm: {api: '>=4'}"), policy("name: a, hsm: {api: '4..9'}")
    found = difference(old, new, [hsm()], {A})
    assert (found.hsms, found.rules, found.allowed) == ((), (), ())
    (lost,) = found.refused
    assert lost.hsm.api == 10
    assert lost.rule.name == "a"
    assert not found.same


@given(policies(), policies(), inventories(), st.sets(st.sampled_from([secret.id for secret in SECRETS])))
def test_exactly_what_differs_in_the_plans_is_told_and_each_with_a_reason(
    old: Policy, new: Policy, there: list[Hsm], held: set[bytes]
) -> None:
    secrets = {secret.id for secret in SECRETS if secret.id in held}
    found = difference(old, new, there, secrets)
    before, after = old.assign(there, secrets), new.assign(there, secrets)
    served = [
        [(one.rule.name, one.rule.secret) if one.rule else None for one in plan.hsms]
        for plan in (before, after)
    ]
    differing = [hsm.apqn for hsm, was, now in zip(before.hsms, *served, strict=True) if was != now]
    assert [change.apqn for change in found.hsms] == differing
    assert all(change.reasons for change in found.hsms)
    assert difference(old, old, there, secrets).same
