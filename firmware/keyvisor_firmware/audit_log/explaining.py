"""Why something was refused or allowed: what was asked, the state then, the rule and its line, what would have to be true,
and the commands that bring it about.

Works on a record and the policy that it names, as long as that is kept; without it on what the record says. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from shlex import quote
from typing import Final

from keyvisor_firmware.association.responses import TEXTS, ApCode
from keyvisor_firmware.audit_log.chain import Event
from keyvisor_firmware.audit_log.decisions import BY_POLICY, Decision, Place
from keyvisor_firmware.audit_log.reading import event_numbered
from keyvisor_firmware.audit_log.remedies import remedy
from keyvisor_firmware.errors import StateUnusable
from keyvisor_firmware.state.records import PolicyRow, Records
from keyvisor_policy import DocumentError, Policy, Rule, parse
from keyvisor_policy import SecretId as PolicySecretId
from keyvisor_policy.tracing import Looked, look, look_at_secret

UNKNOWN_POLICY: Final = "FILE"
UNKNOWN_SECRET: Final = "SECRET"  # noqa: S105  # a placeholder


@dataclass(frozen=True, slots=True)
class Shown:
    """A rule as it is shown: its place, the text of its line where the policy is kept, and every field that it looked at."""

    name: str
    at: str
    line: str | None
    fields: tuple[tuple[str, str, bool], ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """One decision. `asked`, `state` and `answer` are lines for people; `true` is what would have to be, item by item."""

    asked: str
    state: str
    answer: str
    reason: str | None
    policy: str | None
    rules: tuple[Shown, ...]
    others: int
    true: tuple[str, ...]
    commands: tuple[str, ...]


def explanations(records: Records, number: int) -> tuple[Event, tuple[Explained, ...]]:
    """A record and the explanation of each of its decisions. Raises NotFound, StateUnusable."""
    event = event_numbered(records, number)
    try:
        decisions = [Decision.from_json(told) for told in event.decisions]
    except (LookupError, TypeError, ValueError, AttributeError):
        raise StateUnusable(
            f"record {number} holds a decision that this keyvisor does not read: use the one that wrote it"
        ) from None
    kept = (
        None if decision.policy is None else records.kept_policy(bytes.fromhex(decision.policy))
        for decision in decisions
    )
    return event, tuple(map(explain, [event] * len(decisions), decisions, kept))


def explain(event: Event, decision: Decision, kept: PolicyRow | None) -> Explained:
    """Explain one decision of a record; `kept` is the policy that it names, if it is still kept."""
    policy = _parsed(kept)
    rules = tuple(_rules(decision, policy, kept))
    return Explained(
        asked=_asked(decision),
        state=_state(decision),
        answer=_answer(event, decision),
        reason=decision.reason or (None if decision.allowed else event.detail.get("reason")),
        policy=_policy(decision, kept),
        rules=rules,
        others=decision.others,
        true=() if decision.allowed else tuple(_true(decision, rules)),
        commands=() if decision.allowed else _commands(event, decision),
    )


def _asked(decision: Decision) -> str:
    hsm = "" if decision.apqn is None else f" HSM {decision.apqn}"
    secret = _secret(decision)
    match decision.call:
        case "associate":
            return f"associate{hsm} with secret {secret}"
        case "stand":
            return f"whether the association of{hsm} with secret {secret} may stay"
        case "bind" | "unbind":
            return f"{decision.call}{hsm}"
        case "any":
            return "calls of many kinds"
    on = "" if decision.apqn is None else f" on{hsm}"
    mechanism = decision.because.get("mechanism")
    with_mechanism = "" if mechanism is None else f" with mechanism {mechanism:#x}"
    template = " ".join(f"{name}={value}" for name, value in decision.because.get("template", {}).items())
    return f"{decision.call}{on}{with_mechanism}{f' and {template}' if template else ''}"


def _secret(decision: Decision) -> str:
    if decision.secret is not None:
        return f"`{decision.secret}`"
    return "of no name" if decision.secret_id is None else f"with id `{decision.secret_id}`"


def _state(decision: Decision) -> str:
    if decision.hsm is None:
        return "the HSM was not one of the guest's" if decision.apqn is not None else "no HSM is named"
    hsm = decision.hsm
    mkvp = "no master key" if hsm.mkvp is None else f"mkvp {hsm.mkvp.hex()}"
    compliance = f", {', '.join(sorted(hsm.compliance))}" if hsm.compliance else ""
    held = decision.state or "not attached"
    return (
        f"{held}; {hsm.mode} CEX{hsm.generation}, serial {hsm.serial}, {mkvp}, firmware {hsm.firmware[0]}.{hsm.firmware[1]}, "
        f"api {hsm.api}{compliance}, {'online' if hsm.online else 'offline'}"
    )


def _answer(event: Event, decision: Decision) -> str:
    times = f", {decision.count} times from {decision.first} to {decision.last}" if decision.count > 1 else ""
    if decision.allowed:
        undone = "; the command was refused for something else, and nothing of it was done"
        return "allowed" + (undone if event.detail.get("outcome") == "refused" else "")
    if decision.code is None:
        return f"refused{times}"
    return f"refused: {code_text(decision.code)}{times}"


def code_text(code: str) -> str:
    """A code as people read it."""
    try:
        return f"AP response code {code}, {TEXTS[ApCode(int(code, 16))]}"
    except ValueError:
        return code


def _policy(decision: Decision, kept: PolicyRow | None) -> str | None:
    if decision.policy is None:
        return None
    text = "" if kept is not None else "; its text is no longer kept"
    return f"{decision.source}, sha256 {decision.policy}{text}"


def _parsed(kept: PolicyRow | None) -> Policy | None:
    try:
        return None if kept is None else parse(kept.text, kept.source)
    except DocumentError:
        return None  # by another version's grammar


def _rules(decision: Decision, policy: Policy | None, kept: PolicyRow | None) -> Iterator[Shown]:
    """The rule that decided, or those that come closest: of a policy that is kept every field, else what was recorded."""
    if decision.because:
        point, origin = str(decision.because.get("point")), str(decision.because.get("origin"))
        yield Shown(point, origin, _line(kept, origin), ())
    places = [decision.rule] if decision.rule is not None else [one.rule for one in decision.against]
    for place in places:
        fields = _looked(decision, policy, place)
        if fields is None:
            said = [one.fields for one in decision.against if one.rule == place]
            fields = tuple((name, message, False) for found in said for name, message in found.items())
        yield Shown(place.name, place.at, _line(kept, place.at), fields)


def _looked(
    decision: Decision, policy: Policy | None, place: Place
) -> tuple[tuple[str, str, bool], ...] | None:
    if policy is None or decision.hsm is None:
        return None
    for rule in policy.rules:
        if _is_at(rule, place):
            looked = [*_looked_at_secret(decision, rule), *look(rule, decision.hsm)]
            return tuple((one.field, f"{one.wanted} wanted, {one.found} found", one.holds) for one in looked)
    return None


def _looked_at_secret(decision: Decision, rule: Rule) -> Iterator[Looked]:
    if decision.secret_id is not None:
        asked = PolicySecretId(bytes.fromhex(decision.secret_id))
        yield look_at_secret(rule, asked, decision.secret or f"0x{decision.secret_id}")


def _is_at(rule: Rule, place: Place) -> bool:
    return rule.name.startswith(place.name) and place.at.endswith(f":{rule.line}")


def _line(kept: PolicyRow | None, at: str) -> str | None:
    """The text of the line that a place names."""
    number = at.rpartition(":")[2]
    if kept is None or not number.isdecimal():
        return None
    lines = kept.text.splitlines()
    return lines[int(number) - 1].strip() if 0 < int(number) <= len(lines) else None


def _true(decision: Decision, rules: Iterable[Shown]) -> Iterator[str]:
    yield remedy(decision.code).true
    if decision.missing is not None:
        yield f"then: {decision.missing}"
    if decision.because:
        where = f"control point `{decision.because.get('point')}` ({decision.because.get('origin')})"
        yield f"{where} does not deny it: another mechanism or template is asked for, or the policy allows this one"
    if decision.call in BY_POLICY or decision.state == "bound":
        for rule in rules:
            wrong = "; ".join(f"{name}: {said}" for name, said, holds in rule.fields if not holds)
            if wrong:
                yield f"for rule `{rule.name}` ({rule.at}) {wrong}"


def _commands(event: Event, decision: Decision) -> tuple[str, ...]:
    return commands_for(decision, event.guest or "GUEST")


def commands_for(decision: Decision, guest: str) -> tuple[str, ...]:
    """What brings about what a refused decision lacked, as a shell takes it."""
    filled = {
        "guest": quote(guest),
        "apqn": quote(decision.apqn or "APQN"),
        "secret": quote(
            decision.secret or (f"0x{decision.secret_id}" if decision.secret_id else UNKNOWN_SECRET)
        ),
        "policy": quote(decision.source or UNKNOWN_POLICY),
    }
    return tuple(command.format(**filled) for command in remedy(decision.code).commands)
