"""Every value that there can be has one in the same cell."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_policy.attribute_cells import ABSENT, cells
from keyvisor_policy.control_points import Between, Condition, Is, Like, with_sizes
from keyvisor_policy.errors import Undecidable
from keyvisor_policy.text_cells import MOST_STATES, representatives

from .small_requests import BITS, LABEL, MODULUS, SENSITIVE, conditions, possible

PATTERNS = st.text("ab*?", min_size=1, max_size=4)
TEXTS = ["".join(letters) for size in range(6) for letters in itertools.product("abx", repeat=size)]


def signature(patterns: list[str], literals: list[str], text: str) -> tuple[bool, ...]:
    return (*(Like(one).holds(text.encode()) for one in patterns), *(text == one for one in literals))


@settings(max_examples=300, deadline=None)
@given(st.lists(PATTERNS, max_size=4), st.lists(st.text("ab*", max_size=3), max_size=2))
def test_each_text_has_one_that_fits_the_same_patterns_and_none_is_there_twice(
    patterns: list[str], literals: list[str]
) -> None:
    found = [
        signature(patterns, literals, text) for text in representatives(tuple(patterns), tuple(literals))
    ]
    assert len(found) == len(set(found))
    assert {signature(patterns, literals, text) for text in TEXTS} <= set(found)


def test_too_many_patterns_are_said_to_be() -> None:
    with pytest.raises(Undecidable, match=f"more than {MOST_STATES:,} ways for a text to meet or miss"):
        representatives(tuple(f"*{letter}*" for letter in "abcdefghijklmnop"), ())


@pytest.mark.parametrize("attribute", [SENSITIVE, BITS, LABEL, MODULUS])
@given(st.data())
def test_each_value_has_one_in_the_same_cell(attribute: int, data: st.DataObject) -> None:
    asked = data.draw(st.lists(conditions(attribute), max_size=4))
    found = {tuple(one.met(cell) for one in asked) for cell in cells(attribute, asked)}
    for value in possible(attribute):
        template = ABSENT if value is None else {attribute: value}
        assert tuple(one.met(template) for one in asked) in found


@given(st.data())
def test_a_number_and_the_size_that_it_tells_are_looked_at_together(data: st.DataObject) -> None:
    asked = data.draw(st.lists(conditions(BITS) | conditions(MODULUS), max_size=4))
    asked.append(Condition(BITS, "size", (Between(2, None),)))
    found = {tuple(one.met(with_sizes(cell)) for one in asked) for cell in cells(BITS, asked)}
    for number, size in itertools.product(possible(MODULUS), possible(BITS)):
        given_ = {MODULUS: number, BITS: size}
        template = with_sizes({attribute: value for attribute, value in given_.items() if value is not None})
        assert tuple(one.met(template) for one in asked) in found


def test_a_pattern_of_a_long_number_beside_its_size_is_not_decided() -> None:
    asked = [Condition(BITS, "size", (Is(8),)), Condition(MODULUS, "number", (Like("a*"),))]
    with pytest.raises(Undecidable, match="give the number, or the size"):
        cells(BITS, asked)
