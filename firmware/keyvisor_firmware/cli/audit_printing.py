"""How `keyvisor audit` shows what it found: blocks for people, JSON for programs. Knows no log."""

from __future__ import annotations

from dataclasses import asdict

import typer

from keyvisor_firmware.audit_log.chain import Event
from keyvisor_firmware.audit_log.decisions import Place
from keyvisor_firmware.audit_log.explaining import Explained, Shown, code_text
from keyvisor_firmware.audit_log.replaying import Change, Replay
from keyvisor_firmware.audit_log.verifying import Report
from keyvisor_policy.terminal import fail, print_json, printable


def print_report(report: Report, *, as_json: bool) -> None:
    """Whether the log is good. Ends with exit code 1 where it is not."""
    if as_json:
        print_json(
            {
                "good": report.broken is None,
                "records": report.records,
                "signatures": report.signatures,
                "head": None if report.head is None else str(report.head),
                "broken": None if report.broken is None else asdict(report.broken),
            }
        )
        if report.broken is not None:
            raise typer.Exit(1)
        return
    if report.broken is not None:
        broken = report.broken
        fail(
            f"the log is not as it was written ({broken.kind}): {broken.message}; compare it with an earlier export"
        )
    print(f"good: {report.records} records, {report.signatures} signatures")
    print(f"head {report.head}")


def print_explanations(event: Event, explained: tuple[Explained, ...], *, as_json: bool) -> None:
    """A record, and each of its decisions as a block."""
    if as_json:
        print_json(
            {
                "number": event.number,
                "at": event.at,
                "guest": event.guest,
                "event": event.event,
                "detail": dict(event.detail),
                "decisions": [asdict(one) for one in explained],
            }
        )
        return
    _say("record", f"{event.number}, {event.at}, guest {event.guest or 'none'}")
    _say("command", event.event)
    for name, value in sorted(event.detail.items()):
        _say(name, value)
    if not explained:
        _say("decided", "nothing about an HSM: the reason above is all there is, and says what to do")
    for one in explained:
        print()
        _explained(one, event.detail.get("reason"))


def _explained(one: Explained, said: str | None) -> None:
    _say("asked", one.asked)
    _say("state", one.state)
    _say("answer", one.answer)
    if one.reason not in (None, said):
        _say("reason", one.reason or "")
    if one.policy is not None:
        _say("policy", one.policy)
    for rule in one.rules:
        _rule(rule)
    if one.others:
        _say("rules", f"{one.others} others do not allow it either")
    for number, item in enumerate(one.true):
        _say("" if number else "must be", item)
    for number, command in enumerate(one.commands):
        _say("" if number else "do", command)


def _rule(rule: Shown) -> None:
    _say("rule", f"{rule.name} ({rule.at})")
    if rule.line is not None:
        _say("", f"| {rule.line}")
    for name, said, holds in rule.fields:
        _say("", f"{'yes' if holds else 'no '}  {name}: {said}")


def _say(name: str, text: str) -> None:
    print(f"{printable(name):<10} {printable(text)}".rstrip())


def print_replay(replay: Replay, *, as_json: bool) -> None:
    """What would change. Ends with exit code 1 where any decision would be another one."""
    if as_json:
        print_json(
            {
                "decided": replay.decided,
                "left_aside": replay.left_aside,
                "differs": replay.differs,
                "changes": [_change_json(change) for change in replay.changes],
            }
        )
    else:
        for change in replay.changes:
            _change(change)
        differ = sum(not change.same for change in replay.changes)
        print(
            f"{replay.decided} decisions taken again: {differ} would change, "
            f"{len(replay.changes) - differ} by another rule; {replay.left_aside} are no policy's"
        )
    if replay.differs:
        raise typer.Exit(1)


def _change(change: Change) -> None:
    decision, again = change.decision, change.again
    secret = decision.secret or decision.secret_id or ""
    print(printable(f"record {change.number}, {change.at}, guest {change.guest or 'none'}"))
    _say("  asked", f"{decision.call} {decision.apqn or ''} {secret}".rstrip())
    _say("  then", _said(decision.allowed, decision.rule, decision.reason or code_text(decision.code or "")))
    _say("  now", _said(again.allowed, again.rule, again.reason or ""))


def _said(allowed: bool, rule: Place | None, why: str) -> str:
    place = f" by rule `{rule.name}` ({rule.at})" if rule is not None else ""
    return f"{'allowed' if allowed else 'refused'}{place}{'' if allowed or not why else f': {why}'}"


def _change_json(change: Change) -> object:
    decision, again = change.decision, change.again
    return {
        "number": change.number,
        "at": change.at,
        "guest": change.guest,
        "call": decision.call,
        "apqn": decision.apqn,
        "secret": decision.secret,
        "secret_id": decision.secret_id,
        "same": change.same,
        "then": {
            "allowed": decision.allowed,
            "rule": None if decision.rule is None else asdict(decision.rule),
            "reason": decision.reason,
        },
        "now": {
            "allowed": again.allowed,
            "rule": None if again.rule is None else asdict(again.rule),
            "reason": again.reason,
        },
    }
