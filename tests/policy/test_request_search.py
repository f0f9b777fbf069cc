"""What the search over all requests finds is so, and what it does not find is not there: beside looking at each one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_policy.control_points import ControlPoint, ControlPoints, Template
from keyvisor_policy.pkcs11.calls import WITH_KEY, WITH_TEMPLATE
from keyvisor_policy.pkcs11.implied import CLASSES_MADE
from keyvisor_policy.questions import Question, judged
from keyvisor_policy.request_search import allowed_and_refused

from .small_requests import (
    CLASS,
    combinations,
    one_of,
    point_lists,
    templates,
)

_MOST_LOOKED_AT = 2_000

calls = st.sampled_from(
    [
        ("C_SignInit", 0x1),
        ("C_GenerateKey", 0x1080),
        ("C_GenerateKeyPair", 0x0),
        ("C_GenerateKeyPair", 0x1),
        ("C_WrapKey", 0x1),
    ]
)


def decided(points: ControlPoints, asked: Question) -> bool:
    return points.decide(asked.call, asked.mechanism, asked.template, asked.key, asked.on).allowed


def looked_at(of_template: set[int], of_key: set[int], random: Random) -> Iterator[tuple[Template, Template]]:
    """All that there can be, or where these are too many some of them."""
    if combinations(of_template) * combinations(of_key) <= _MOST_LOOKED_AT:
        yield from itertools.product(templates(of_template), templates(of_key))
    else:
        for _ in range(_MOST_LOOKED_AT):
            yield one_of(of_template, random), one_of(of_key, random)


@settings(max_examples=300, deadline=None)
@given(
    point_lists("payments"),
    point_lists("payments"),
    calls,
    st.sampled_from([None, "payments"]),
    st.randoms(use_true_random=False),
)
def test_the_search_agrees_with_a_look_at_every_request(
    new: list[ControlPoint],
    old: list[ControlPoint],
    asked: tuple[str, int],
    on: str | None,
    random: Random,
) -> None:
    call, mechanism = asked
    first, second = ControlPoints(new), ControlPoints(old)
    found = allowed_and_refused(
        call, mechanism, first.concerning(call, mechanism, on), second.concerning(call, mechanism, on)
    )
    if found.request is not None:
        request = Question(call, mechanism, found.request.template, found.request.key, on)
        assert decided(first, request)
        assert not decided(second, request)
        return
    points = [*first.concerning(call, mechanism, on), *second.concerning(call, mechanism, on)]
    of_template = {one.attribute for point in points for one in point.template if call in WITH_TEMPLATE}
    of_key = {one.attribute for point in points for one in point.key if call in WITH_KEY}
    for template, key in looked_at(of_template, of_key, random):
        for each in judged(Question(call, mechanism, template, key)):
            if call == "C_GenerateKeyPair" and each[CLASS] not in CLASSES_MADE[call]:
                continue  # the gate puts the class of each half there itself
            request = Question(call, mechanism, each, key, on)
            assert decided(second, request) or not decided(first, request), request


@settings(max_examples=200, deadline=None)
@given(point_lists("payments"), point_lists("payments"), calls)
def test_a_point_that_is_asked_for_is_the_one_that_decides(
    new: list[ControlPoint], old: list[ControlPoint], asked: tuple[str, int]
) -> None:
    call, mechanism = asked
    first, second = ControlPoints(new), ControlPoints(old)
    allowing, refusing = (points.concerning(call, mechanism, None) for points in (first, second))
    deciding = []
    for point in refusing:
        found = (
            allowed_and_refused(call, mechanism, allowing, refusing, point)
            if point.effect == "deny"
            else None
        )
        if found is not None and found.request is not None:
            request = found.request
            decision = second.decide(call, mechanism, request.template, request.key, None)
            assert decision.point is point
            assert decided(first, request)
            deciding.append(point)
    assert bool(deciding) is (allowed_and_refused(call, mechanism, allowing, refusing).request is not None)
