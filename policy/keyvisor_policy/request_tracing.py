"""Why a call is allowed or refused: every control point that concerns it, each condition, and the one that decided.

The trace behind `policy explain --call` and behind a failed case. `ControlPoints.decide` decides, this shows what it
looked at; a test holds both together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from keyvisor_policy.control_points import (
    Condition,
    ControlPoint,
    ControlPoints,
    Decision,
    Template,
    Tried,
    Unreadable,
)
from keyvisor_policy.questions import Answer, Question, ask, attribute_name, value_text
from keyvisor_policy.strict_yaml.wording import shown

NOT_GIVEN = "not given"


@dataclass(frozen=True, slots=True)
class LookedAt:
    """One condition: `where` is `template` or `key`; `holds` is None for a value that it cannot read."""

    where: str
    attribute: str
    wanted: str
    found: str
    holds: bool | None


@dataclass(frozen=True, slots=True)
class PointTrace:
    """One control point that concerns the call, its conditions, and what came of it, in words."""

    point: ControlPoint
    conditions: tuple[LookedAt, ...]
    outcome: str
    decides: bool


@dataclass(frozen=True, slots=True)
class RequestExplanation:
    """The answer in one line, the answer itself, and the trace."""

    question: Question
    verdict: str
    answer: Answer
    traces: tuple[PointTrace, ...]


def explain_request(points: ControlPoints, question: Question) -> RequestExplanation:
    """What the points say about a call, and why."""
    answer = ask(points, question)
    traces = tuple(
        PointTrace(
            one.point,
            tuple(_looked_at(one.point, answer.template, question.key)),
            _outcome(one, answer.decision),
            one.point is answer.decision.point,
        )
        for one in answer.decision.tried
    )
    return RequestExplanation(question, _verdict(question, answer), answer, traces)


def _verdict(question: Question, answer: Answer) -> str:
    decision = answer.decision
    by = "" if decision.point is None else f" by {point_place(decision.point)}"
    if not decision.allowed:
        return f"{question}: refused{by}; the application gets {answer.code}"
    return f"{question}: allowed{by or ', no control point refuses it'}"


def point_place(point: ControlPoint) -> str:
    """The control point and where it stands, as messages say it."""
    return f"control point {shown(point.name)}, {point.origin}"


def _outcome(tried: Tried, decision: Decision) -> str:
    point = tried.point
    if tried.error is not None:
        return f"cannot be decided, {tried.error}: refuses"
    if not tried.matched:
        return "does not match"
    if point is decision.point:
        return "decides: allows" if decision.allowed else "decides: refuses"
    what = "would refuse" if point.effect == "deny" else "would allow"
    return what if decision.point is None else f"{what}; {shown(decision.point.name)} decides"


def _looked_at(point: ControlPoint, template: Template, key: Template) -> Iterator[LookedAt]:
    for where, conditions, values in (("template", point.template, template), ("key", point.key, key)):
        for one in conditions:
            name, _, wanted = one.text.partition(": ")
            value = values.get(one.attribute)
            found = NOT_GIVEN if value is None else value_text(one.attribute, value)
            yield LookedAt(where, name or attribute_name(one.attribute), wanted, found, _holds(one, values))


def _holds(condition: Condition, values: Template) -> bool | None:
    try:
        return condition.met(values)
    except Unreadable:
        return None
