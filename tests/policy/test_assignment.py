"""The assignment against brute force: every assignment there is, compared by the order that the module promises."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from keyvisor_policy.assignment import assigned
from keyvisor_policy.bit_masks import members

Pairs = dict[tuple[int, int], int]
"""What (rule, HSM) is worth."""
Problem = tuple[list[int], list[int | None], int, Pairs]


def solved(problem: Problem) -> tuple[int, ...]:
    matches, wanted, hsms, pairs = problem
    worth: dict[int, dict[int, int]] = {}
    for (rule, hsm), value in pairs.items():
        masks = worth.setdefault(rule, {})
        masks[value] = masks.get(value, 0) | 1 << hsm
    return assigned(matches, wanted, hsms, worth)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    hsms = draw(st.integers(0, 4))
    rules = draw(st.integers(0, 4))
    masks = st.integers(0, (1 << hsms) - 1)
    matches = draw(st.lists(masks, min_size=rules, max_size=rules))
    wanted = draw(st.lists(st.sampled_from([1, 1, 1, 2, 3, None]), min_size=rules, max_size=rules))
    pairs = [(rule, hsm) for rule in range(rules) for hsm in members(matches[rule])]
    values = draw(st.lists(st.sampled_from([0, 0, 1, hsms + 1]), min_size=len(pairs), max_size=len(pairs)))
    return matches, wanted, hsms, {pair: value for pair, value in zip(pairs, values, strict=True) if value}


def goodness(owners: Sequence[int], wanted: Sequence[int | None], worth: Pairs) -> tuple[object, ...]:
    """Bigger is better, in the module's four steps."""
    served = [[hsm for hsm, owner in enumerate(owners) if owner == rule] for rule in range(len(wanted))]
    met = tuple(len(got) >= (count or 1) for got, count in zip(served, wanted, strict=True))
    had = tuple(map(len, served))
    kept = sum(worth.get((owner, hsm), 0) for hsm, owner in enumerate(owners))
    return met, had, kept, tuple(tuple(-hsm for hsm in got) for got in served)


def best_by_force(problem: Problem) -> tuple[int, ...]:
    matches, wanted, hsms, worth = problem
    idle = len(matches)
    choices = [[*(rule for rule in range(idle) if matches[rule] >> hsm & 1), idle] for hsm in range(hsms)]
    fitting = (
        owners
        for owners in itertools.product(*choices)
        if all(count is None or owners.count(rule) <= count for rule, count in enumerate(wanted))
    )
    owners = max(fitting, key=lambda owners: goodness(owners, wanted, worth))
    return tuple(sum(1 << hsm for hsm in range(hsms) if owners[hsm] == rule) for rule in range(idle))


@given(problems())
def test_it_is_the_best_of_all_assignments(problem: Problem) -> None:
    assert solved(problem) == best_by_force(problem)


def test_many_larger_problems_from_a_fixed_seed() -> None:
    dice = random.Random(20240531)  # noqa: S311  (reproducible problems, not secrets)
    for _ in range(300):
        hsms, rules = 5, 4
        matches = [dice.getrandbits(hsms) for _ in range(rules)]
        wanted = [dice.choice([1, 1, 2, None]) for _ in range(rules)]
        pairs = [(rule, hsm) for rule in range(rules) for hsm in members(matches[rule])]
        worth = {pair: dice.choice([1, hsms + 1]) for pair in pairs if dice.random() < 0.5}
        problem = (matches, wanted, hsms, worth)
        assert solved(problem) == best_by_force(problem)


def test_it_stays_quick_where_everything_fits_everything() -> None:
    hsms = 64
    everything = (1 << hsms) - 1
    worth = {(rule, hsms - 1 - rule): hsms + 1 for rule in range(hsms)}
    masks = solved(([everything] * hsms, [1] * hsms, hsms, worth))
    assert masks == tuple(1 << (hsms - 1 - rule) for rule in range(hsms))


def test_a_thousand_rules_that_cannot_be_met_change_nothing() -> None:
    masks = assigned([0b11, *[0b01] * 1000], [None, *[1] * 1000], 2, {})
    assert masks[:2] == (0b10, 0b01)
    assert not any(masks[2:])
