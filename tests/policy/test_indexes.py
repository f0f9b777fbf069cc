"""Patterns and HSMs found by an index: the answer is that of comparing each, and finding it stays quick as rules grow."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.policy.small_domain import EVERY, SECRETS, hsms, inventories, patterns, policies

from keyvisor_policy import Hsm, Interval, NotPermitted, Pattern, Policy, Rule, Secret, SecretId, secret_id
from keyvisor_policy.bit_masks import members
from keyvisor_policy.hsm_index import HsmIndex
from keyvisor_policy.lint import check
from keyvisor_policy.matching import covers, mismatches, usable
from keyvisor_policy.pattern_index import MOST_COMPARED, PatternIndex
from keyvisor_policy.prove import implies

IDS = [secret.id for secret in SECRETS]
some = st.sampled_from([hsm for hsm in EVERY if hsm.mkvp is not None])
offline = st.builds(dataclasses.replace, hsms, online=st.booleans())
# Enough that are alike in mode, MKVP and serial number to be laid over each other, and some that are not.
many = st.lists(
    patterns | st.builds(dataclasses.replace, patterns, mkvp=st.none(), serial=st.none()), max_size=80
)


@given(many, offline, patterns)
def test_patterns_are_found_as_by_comparing_each(listed: list[Pattern], hsm: Hsm, narrow: Pattern) -> None:
    index = PatternIndex(listed)
    met = [number for number, pattern in enumerate(listed) if usable(hsm, pattern)]
    assert index.matching(hsm) == met
    assert index.first_matching(hsm) == next(iter(met), None)
    covering = (number for number, pattern in enumerate(listed) if covers(pattern, narrow))
    assert index.first_covering(narrow) == next(covering, None)


@pytest.mark.parametrize("count", [MOST_COMPARED, MOST_COMPARED + 1])
def test_both_ways_to_find_patterns_look_at_every_field(count: int) -> None:
    near = Pattern(
        "ep11", None, None, Interval(6, 6), Interval((1, 0), (1, 0)), Interval(1, 1), frozenset({"x"})
    )
    hsm = Hsm("00.0001", "ep11", 6, "A" * 16, b"\1" * 16, (1, 0), 1, frozenset({"x"}))
    last = count - 1
    changes: list[dict[str, Any]] = [
        {"generation": Interval(7, 7)},
        {"firmware": Interval((1, 1), None)},
        {"api": Interval(None, 0)},
        {"compliance": frozenset({"x", "y"})},
    ]
    for change in changes:
        others = [dataclasses.replace(near, **change)] * last
        index = PatternIndex([*others, near])
        assert (index.matching(hsm), index.first_covering(near)) == ([last], last)
        assert PatternIndex(others).first_covering(near) is None


@given(inventories(), patterns)
def test_hsms_are_found_as_by_looking_at_each(there: list[Hsm], pattern: Pattern) -> None:
    there = [dataclasses.replace(hsm, online=number != 1) for number, hsm in enumerate(there)]
    index = HsmIndex(there)
    assert list(members(index.matching(pattern))) == [
        number for number, hsm in enumerate(there) if usable(hsm, pattern)
    ]
    failing = list(index.failing(pattern))
    for number, hsm in enumerate(there):
        assert [field for field, mask in failing if mask >> number & 1] == [
            mismatch.field for mismatch in mismatches(hsm, pattern)
        ]


@given(policies(most=30), offline, st.sampled_from(IDS))
def test_a_policy_permits_what_the_first_rule_that_matches_allows(
    policy: Policy, hsm: Hsm, secret: SecretId
) -> None:
    allowing = (
        rule for rule in policy.rules if usable(hsm, rule.hsm) and rule.secret and rule.secret.id == secret
    )
    expected = next(allowing, None)
    assert permitted(policy, hsm, secret) is expected
    assert policy.rules_for(hsm) == tuple(rule for rule in policy.rules if usable(hsm, rule.hsm))


@given(policies(most=12), inventories(), st.sets(st.sampled_from(IDS)))
def test_a_summary_says_what_the_reasons_say_of_the_hsms_that_lack_least(
    policy: Policy, there: list[Hsm], held: set[SecretId]
) -> None:
    for outcome in policy.assign(there, held).unmet:
        own = [str(reason) for reason in outcome.reasons if reason.apqn is None]
        by_hsm: dict[str, list[str]] = {}
        for reason in outcome.reasons:
            if reason.apqn is not None:
                by_hsm.setdefault(reason.apqn, []).append(str(reason.mismatch))
        near = sorted(by_hsm, key=lambda apqn: (len(by_hsm[apqn]), apqn))
        parts = [f"{apqn}: {', '.join(by_hsm[apqn])}" for apqn in near[:3]]
        if len(near) > 3:
            parts.append(f"{len(near) - 3} more do not match either")
        assert outcome.summary.partition(": ")[2] == "; ".join(own or parts)


def test_a_policy_stays_the_value_that_it_was_before_it_was_asked() -> None:
    asked, other = (policy_of([Pattern("ep11")] * 3) for _ in range(2))
    assert permitted(asked, hsm_of(1), IDS[0]) is asked.rules[0]
    assert (asked, hash(asked), repr(asked)) == (other, hash(other), repr(other))
    changed = dataclasses.replace(asked, rules=asked.rules[1:])
    assert permitted(changed, hsm_of(1), IDS[0]) is changed.rules[0]
    assert permitted(dataclasses.replace(asked, rules=()), hsm_of(1), IDS[0]) is None


FLAGS = [f"flag-{number}" for number in range(14)]
SHAPES: dict[str, Callable[[int, int], Pattern]] = {
    "an MKVP each": lambda at, _: Pattern("ep11", mkvp=at.to_bytes(16, "big")),
    "a serial number each": lambda at, _: Pattern("ep11", serial=f"{at:016d}"),
    "wider and wider firmware": lambda at, of: Pattern("ep11", firmware=Interval((of - at, 0), None)),
    "narrower and narrower firmware": lambda at, _: Pattern("ep11", firmware=Interval((at, 0), None)),
    "one firmware each": lambda at, _: Pattern("ep11", firmware=Interval((at, 0), (at, 0))),
    "firmware against API": lambda at, of: Pattern(
        "ep11", firmware=Interval((at, 0), None), api=Interval(of - at, None)
    ),
    "firmware and API, nested": lambda at, of: Pattern(
        "ep11",
        firmware=Interval((of - at % 100, 0), (of + at % 100, 0)),
        api=Interval(of - at // 100, of + at // 100),
    ),
    "generations": lambda at, _: Pattern("ep11", generation=Interval(4 + at % 5, None)),
    "sets of a few names": lambda at, _: Pattern(
        "ep11", compliance=frozenset(name for bit, name in enumerate(FLAGS) if ~at >> bit & 1)
    ),
    "a name each": lambda at, _: Pattern("ep11", compliance=frozenset({"all", str(at)})),
    "all alike": lambda _at, _of: Pattern("ep11", api=Interval(4, None)),
}


def policy_of(listed: list[Pattern]) -> Policy:
    secret = SECRETS[0]
    return Policy(tuple(Rule(f"r{at}", one, secret, line=at + 1) for at, one in enumerate(listed)), "p", b"")


def hsm_of(number: int) -> Hsm:
    return Hsm(
        f"{number % 256:02x}.{number // 256:04x}", "ep11", 8, f"{number:016d}", number.to_bytes(16, "big")
    )


def permitted(policy: Policy, hsm: Hsm, secret: SecretId) -> Rule | None:
    try:
        return policy.permit(hsm, secret)
    except NotPermitted:
        return None


def grown(measured: Callable[[int], float], small: int, times: int) -> float:
    """How many times as long it takes for so many times as much; by the least of three, as other work only adds."""
    gc.disable()  # it looks at all that other tests left
    try:
        few, many = ([measured(count) for _ in range(3)] for count in (small, small * times))
    finally:
        gc.enable()
    return min(many) / min(few)


@pytest.mark.parametrize("shape", SHAPES)
def test_four_times_the_rules_take_about_four_times_as_long_to_check(shape: str) -> None:
    """Comparing each with each would take sixteen times as long."""

    def checking(count: int) -> float:
        policy = policy_of([SHAPES[shape](at, count) for at in range(count)])
        begun = time.process_time()
        check(policy)
        return time.process_time() - begun

    assert grown(checking, 2_500, 4) < 7


@pytest.mark.parametrize("shape", SHAPES)
def test_a_decision_is_hardly_slower_with_a_hundred_times_the_rules(shape: str) -> None:
    """Twenty times would still be microseconds; comparing each rule would take a hundred times as long."""

    def deciding(count: int) -> float:
        policy = policy_of([*(SHAPES[shape](at, count) for at in range(count - 1)), Pattern("ep11")])
        hsm = hsm_of(count // 2)
        assert policy.permit(hsm, IDS[0])
        begun = time.process_time()
        for _ in range(500):
            policy.permit(hsm, IDS[0])
        return time.process_time() - begun

    assert grown(deciding, 100, 100) < 20


@pytest.mark.parametrize("shape", SHAPES)
def test_four_times_the_rules_and_hsms_take_at_most_as_many_times_as_long_to_plan(shape: str) -> None:
    """Four times the rules for four times the HSMs are sixteen times the pairs."""

    def planning(count: int) -> float:
        secrets = [Secret(secret_id(str(number))) for number in range(50)]
        policy = policy_of([SHAPES[shape](at, count) for at in range(count)])
        rules = (dataclasses.replace(rule, secret=secrets[at % 50]) for at, rule in enumerate(policy.rules))
        policy, there = (
            dataclasses.replace(policy, rules=tuple(rules)),
            [hsm_of(at) for at in range(count // 10)],
        )
        begun = time.process_time()
        policy.assign(there, {secret.id for secret in secrets})
        return time.process_time() - begun

    assert grown(planning, 1_000, 4) < 16


@pytest.mark.parametrize("shape", SHAPES)
def test_a_narrowed_policy_of_ten_thousand_rules_is_proved_to_imply_the_old_one(shape: str) -> None:
    def proving(count: int) -> float:
        old = policy_of([SHAPES[shape](at, count) for at in range(count)])
        narrowed = (dataclasses.replace(rule.hsm, generation=Interval(8, None)) for rule in old.rules)
        new = policy_of(list(narrowed))
        begun = time.process_time()
        assert implies(new, old).proved
        return time.process_time() - begun

    assert grown(proving, 2_500, 4) < 7
