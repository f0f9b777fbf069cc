"""A call that a control point refused, decided again by another policy: from what the record says was looked at.

Pure. A record has only what the old policy looked at; where the new one looks at more, it cannot be asked.
"""

from __future__ import annotations

from collections.abc import Mapping

from keyvisor_firmware.audit_log.decisions import Decision, Place
from keyvisor_firmware.audit_log.replaying import Again
from keyvisor_firmware.broker.control import MAX_BECAUSE, MAX_LOOKED_AT
from keyvisor_firmware.broker.control_points import NOT_THERE
from keyvisor_policy import Policy
from keyvisor_policy.control_points import TELL_SIZES, Template, Value
from keyvisor_policy.pkcs11.kinds import NAMED, NUMBERS, TRUTH_VALUES
from keyvisor_policy.pkcs11.names import ATTRIBUTES

KEY = "key "
"""Stands before the attributes of the key that the call used."""


def call_again(decision: Decision, policy: Policy) -> Again | None:
    """What `policy` says of the call; None where the record does not tell enough."""
    because, points = decision.because, policy.control_points
    mechanism, rule = because.get("mechanism"), because.get("rule")
    told: Mapping[str, str] = because.get("template", {})
    if len(told) >= MAX_LOOKED_AT or any(len(text) >= MAX_BECAUSE for text in told.values()):
        return None  # it may have been cut
    template = _values({name: text for name, text in told.items() if not name.startswith(KEY)})
    key = _values({name.removeprefix(KEY): text for name, text in told.items() if name.startswith(KEY)})
    if template is None or key is None:
        return None
    looked_at = {
        *map(_named, points.template_types(decision.call, mechanism, rule) - TELL_SIZES),
        *(KEY + _named(type_) for type_ in points.key_types(decision.call, mechanism, rule) - TELL_SIZES),
    }
    if not looked_at <= told.keys():
        return None
    decided = points.decide(decision.call, mechanism, template, key, rule)
    point = None if decided.point is None else Place(decided.point.name, decided.point.origin)
    return Again(decided.allowed, point, None if decided.allowed else decided.reason)


def _values(told: Mapping[str, str]) -> Template | None:
    found: dict[int, Value] = {}
    for name, text in told.items():
        if text == NOT_THERE:
            continue
        number = ATTRIBUTES.get(name)
        if number is None:
            return None
        try:
            found[number] = _value(number, text)
        except ValueError:
            return None
    return found


def _named(type_: int) -> str:
    return next((name for name, number in ATTRIBUTES.items() if number == type_), f"{type_:#x}")


def _value(number: int, text: str) -> Value:
    """What `control_points._text` wrote. Raises ValueError."""
    if number in TRUTH_VALUES:
        return {"true": True, "false": False}[text] if text in ("true", "false") else bytes.fromhex(text[2:])
    if number in NUMBERS or number in NAMED:
        return int(text)
    return bytes.fromhex(text[2:]) if text.startswith("0x") else text.encode()
