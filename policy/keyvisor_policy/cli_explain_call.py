"""`keyvisor policy explain --call`: the trace of one call through a policy's control points.

Prints what `request_tracing` answers; decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from keyvisor_policy.terminal import print_json, print_table, printable

if TYPE_CHECKING:
    from keyvisor_policy.control_points import Template
    from keyvisor_policy.policy import Policy
    from keyvisor_policy.questions import Question
    from keyvisor_policy.request_tracing import PointTrace, RequestExplanation

T = TypeVar("T")


def explain_call(policy: Policy, question: Question, *, as_json: bool) -> None:
    """Print what the policy says about the call."""
    from keyvisor_policy.request_tracing import explain_request

    explanation = explain_request(policy.control_points, question)
    if as_json:
        print_json(_value(explanation))
    else:
        _print(explanation)


def question_of(
    policy: Policy,
    call: str,
    mechanism: str | None,
    template: list[str] | None,
    key: list[str] | None,
    on: str | None,
) -> Question:
    """What the command line asks. Ends with exit code 2 for what no application could ask."""
    from keyvisor_policy import question_fields
    from keyvisor_policy.questions import Question, wrong_parts

    question = Question(
        _read(question_fields.call, call, "--call"),
        None if mechanism is None else _read(question_fields.mechanism, mechanism, "--mechanism"),
        _template(template, "--template"),
        _template(key, "--key"),
        None if on is None else _read(_rule_of(policy), on, "--on"),
    )
    for _, wrong in wrong_parts(question):
        raise typer.BadParameter(wrong, param_hint="--call")
    return question


def _read(read: Callable[[object], T], text: str, option: str) -> T:
    try:
        return read(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _template(given: list[str] | None, option: str) -> Template:
    from keyvisor_policy.question_fields import typed
    from keyvisor_policy.request_fields import attribute

    found = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"expected NAME=VALUE, found `{printable(text)}`", param_hint=option)
        try:
            number = attribute(name)
            found[number] = typed(name, value)
        except ValueError as error:
            about = str(error) if name in str(error) else f"{name}: {error}"
            raise typer.BadParameter(about, param_hint=option) from None
    return found


def _rule_of(policy: Policy) -> Callable[[object], str]:
    def rule(name: object) -> str:
        from keyvisor_policy.strict_yaml.wording import nearest, shown

        known = {one.name for one in policy.rules}
        if name not in known:
            meant = nearest(str(name), known)
            hint = f"; did you mean {shown(meant)}?" if meant else ""
            raise ValueError(f"{shown(str(name))} is not the name of an association of this policy{hint}")
        return str(name)

    return rule


def _print(explanation: RequestExplanation) -> None:
    from keyvisor_policy.strict_yaml.wording import escaped

    print(printable(explanation.verdict))
    print()
    outcomes = [
        (escaped(trace.point.name), trace.point.effect, escaped(trace.point.origin), trace.outcome)
        for trace in explanation.traces
    ]
    print_table(
        ("control point", "effect", "stands in", "outcome"), outcomes, "no control point concerns this call"
    )
    rows = [row for trace in explanation.traces for row in _rows(trace)]
    if rows:
        print()
        print_table(("control point", "of", "attribute", "wanted", "found", ""), rows)


def _rows(trace: PointTrace) -> list[tuple[str, ...]]:
    from keyvisor_policy.strict_yaml.wording import escaped

    words = {True: "true", False: "false", None: "unreadable"}
    return [
        (
            escaped(trace.point.name),
            looked.where,
            looked.attribute,
            escaped(looked.wanted),
            escaped(looked.found),
            words[looked.holds],
        )
        for looked in trace.conditions
    ]


def _value(explanation: RequestExplanation) -> dict[str, Any]:
    from keyvisor_policy.questions import mechanism_name

    question, decision = explanation.question, explanation.answer.decision
    return {
        "call": question.call,
        "mechanism": None if question.mechanism is None else mechanism_name(question.mechanism),
        "on": question.on,
        "verdict": explanation.verdict,
        "allowed": decision.allowed,
        "code": None if decision.allowed else explanation.answer.code,
        "point": None if decision.point is None else decision.point.name,
        "origin": None if decision.point is None else decision.point.origin,
        "points": [_trace(trace) for trace in explanation.traces],
    }


def _trace(trace: PointTrace) -> dict[str, Any]:
    return {
        "name": trace.point.name,
        "effect": trace.point.effect,
        "profile": trace.point.profile,
        "origin": trace.point.origin,
        "outcome": trace.outcome,
        "decides": trace.decides,
        "conditions": [
            {
                "of": looked.where,
                "attribute": looked.attribute,
                "wanted": looked.wanted,
                "found": looked.found,
                "holds": looked.holds,
            }
            for looked in trace.conditions
        ],
    }
