"""Which recorded decisions another policy would change.

Every association that was decided by a policy is decided again by the new one, on the HSM as it was then. Calls that a
control point refused are decided again by `decide_call`, where the caller has one. Pure: records in, changes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from keyvisor_firmware.audit_log.chain import Event
from keyvisor_firmware.audit_log.decisions import BY_POLICY, NOT_PERMITTED, Decision, Place, judged
from keyvisor_policy import Policy


@dataclass(frozen=True, slots=True)
class Again:
    """What a policy says now: whether it is allowed, by which rule or control point, and why not."""

    allowed: bool
    rule: Place | None
    reason: str | None


# Decides a refused call again: from the decision, whose `because` says what the control point looked at, and the new
# policy. None where the policy cannot be asked about it.
CallDecider = Callable[[Decision, Policy], Again | None]


@dataclass(frozen=True, slots=True)
class Change:
    """A decision that would be another one, or the same by another rule (`same`)."""

    number: int
    at: str
    guest: str | None
    decision: Decision
    again: Again

    @property
    def same(self) -> bool:
        """Whether it would be decided alike."""
        return self.decision.allowed == self.again.allowed


@dataclass(frozen=True, slots=True)
class Replay:
    """How many decisions were taken again, how many are no policy's, and those that would change."""

    decided: int
    left_aside: int
    changes: tuple[Change, ...]

    @property
    def differs(self) -> bool:
        """Whether any decision would be another one."""
        return any(not change.same for change in self.changes)


def replay(events: Iterable[Event], policy: Policy, decide_call: CallDecider | None = None) -> Replay:
    """Decide again what the records say. Raises LookupError, TypeError, ValueError for a record that is none."""
    decided = left_aside = 0
    changes = []
    for event, decision in _decisions(events):
        again = _again(decision, policy, decide_call)
        if again is None:
            left_aside += 1
            continue
        decided += 1
        if decision.allowed != again.allowed or (again.allowed and _name(decision.rule) != _name(again.rule)):
            changes.append(Change(event.number, event.at, event.guest, decision, again))
    return Replay(decided, left_aside, tuple(changes))


def _name(rule: Place | None) -> str | None:
    return None if rule is None else rule.name


def _decisions(events: Iterable[Event]) -> Iterator[tuple[Event, Decision]]:
    for event in events:
        for told in event.decisions:
            yield event, Decision.from_json(told)


def _again(decision: Decision, policy: Policy, decide_call: CallDecider | None) -> Again | None:
    if decision.call in BY_POLICY:
        return _association_again(decision, policy)
    if decision.because and decide_call is not None:
        return decide_call(decision, policy)
    return None


def _association_again(decision: Decision, policy: Policy) -> Again | None:
    """None for what was refused for another reason: no policy was asked, or none could have helped."""
    if decision.hsm is None or decision.secret_id is None:
        return None
    if not decision.allowed and decision.code != NOT_PERMITTED:
        return None
    verdict = judged(policy, decision.hsm, bytes.fromhex(decision.secret_id))
    return Again(verdict.rule is not None, verdict.rule, verdict.reason or None)
