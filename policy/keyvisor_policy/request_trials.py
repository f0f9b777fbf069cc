"""The calls that a case asks, put to the control points: which decided, and what is not as expected.

Pure. A call is asked of an HSM that the case's plan holds, through the rule that the firmware would hold it through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keyvisor_policy.cases import Asked, Case
from keyvisor_policy.control_points import ControlPoint
from keyvisor_policy.hsms import Hsm
from keyvisor_policy.plan import HsmOutcome, Plan
from keyvisor_policy.policy import Policy
from keyvisor_policy.questions import Question
from keyvisor_policy.request_tracing import PointTrace, RequestExplanation, explain_request, point_place
from keyvisor_policy.rules import Rule
from keyvisor_policy.strict_yaml.wording import shown


@dataclass(frozen=True, slots=True)
class Answered:
    """A call that was asked. `explanation` is None where no HSM is held as it says, `difference` where all is as expected."""

    asked: Asked
    explanation: RequestExplanation | None
    difference: str | None

    @property
    def point(self) -> ControlPoint | None:
        """The control point that decided."""
        return None if self.explanation is None else self.explanation.answer.decision.point


def answers(policy: Policy, case: Case, plan: Plan) -> tuple[Answered, ...]:
    """Every call that the case asks, in its order."""
    hsms = {hsm.apqn: hsm for hsm in case.hsms}
    held = {
        outcome.apqn: held_through(policy, hsms[outcome.apqn], outcome.rule)
        for outcome in plan.hsms
        if outcome.rule is not None
    }
    return tuple(_answered(policy, plan, held, asked) for asked in case.expect.requests)


def held_through(policy: Policy, hsm: Hsm, serves: Rule) -> Rule:
    """The rule that the firmware holds an HSM through which serves this rule: the first that allows the same.

    No plan tells the firmware which rule it has an HSM for.
    """
    if serves.secret is not None:
        return policy.permit(hsm, serves.secret.id)
    return next(rule for rule in policy.rules_for(hsm) if rule.secret is None)


def _answered(policy: Policy, plan: Plan, held: Mapping[str, Rule], asked: Asked) -> Answered:
    names = list(dict.fromkeys(rule.name for rule in held.values()))
    on = asked.question.on
    if on is None and len(names) == 1:
        on = names[0]
    if on not in names:
        return Answered(asked, None, f"{asked.question}: {_nothing_to_ask(plan, held, on)}")
    question = asked.question
    explanation = explain_request(
        policy.control_points,
        Question(question.call, question.mechanism, question.template, question.key, on),
    )
    return Answered(asked, explanation, _difference(policy, asked, explanation))


def _nothing_to_ask(plan: Plan, held: Mapping[str, Rule], on: str | None) -> str:
    """Why the case's plan has no HSM that the call could be asked of."""
    if on is None and not held:
        return "the plan holds no HSM that it could be asked of; give the case HSMs and secrets of a rule"
    if on is None:
        names = " and ".join(dict.fromkeys(shown(rule.name) for rule in held.values()))
        return f"the plan holds HSMs through {names}; say with `on` which is asked"
    outcome = next(outcome for outcome in plan.rules if outcome.rule.name == on)
    if not outcome.hsms:
        return f"the plan holds no HSM through {shown(on)}: {outcome.summary}"
    return f"no HSM is held through {shown(on)}: {_held_otherwise(outcome.hsms[0], held)}"


def _held_otherwise(outcome: HsmOutcome, held: Mapping[str, Rule]) -> str:
    other = held[outcome.apqn]
    return (
        f"the firmware holds {outcome.apqn} through rule {shown(other.name)} in line {other.line}, which allows the same"
        " and comes first"
    )


def _difference(policy: Policy, asked: Asked, explanation: RequestExplanation) -> str | None:
    decision = explanation.answer.decision
    by = None if decision.point is None else decision.point.label
    if decision.allowed is asked.allowed and asked.by in (None, by):
        return None
    head = f"{asked.question} on {shown(explanation.question.on or '')}"
    wanted = _outcome(asked.allowed) + (f" by {shown(asked.by)}" if asked.by is not None else "")
    why = "" if asked.by in (None, by) else f"; {_why_not(policy, asked.by or '', explanation)}"
    return f"{head}: expected {wanted}, found {_outcome(decision.allowed)}{_by(decision.point)}{why}"


def _outcome(allowed: bool) -> str:
    return "allowed" if allowed else "refused"


def _by(point: ControlPoint | None) -> str:
    return ", no control point refuses it" if point is None else f" by {point_place(point)}"


def _why_not(policy: Policy, label: str, explanation: RequestExplanation) -> str:
    """Why the point that was to decide did not."""
    trace = next((trace for trace in explanation.traces if trace.point.label == label), None)
    if trace is not None:
        return f"{shown(label)} {trace.outcome.partition(';')[0]}{_failing(trace)}"
    point = next(point for point in policy.control_points.points if point.label == label)
    question = explanation.question
    if point.concerns(question.call, question.mechanism, point.on):
        return f"{shown(label)} is for HSMs that are held through {shown(point.on or '')} alone"
    return f"{shown(label)} is not about such a call"


def _failing(trace: PointTrace) -> str:
    failing = [
        f"{'key ' if looked.where == 'key' else ''}{looked.attribute} is {looked.found}, {looked.wanted} wanted"
        for looked in trace.conditions
        if not looked.holds
    ]
    return f": {'; '.join(failing)}" if failing else ""
