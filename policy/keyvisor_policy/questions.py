"""One call as an application would make it, put to the control points (policy.md, sections 3 and 4).

Pure. `ControlPoints.decide` decides; here is told which templates a call is judged by, as the gate does before the HSM
sees it. What an HSM adds to an object by itself is not known here: what a template leaves out is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from keyvisor_policy.control_points import ControlPoints, Decision, Kind, Template, Value
from keyvisor_policy.pkcs11.calls import WITH_KEY, WITH_MECHANISM, WITH_TEMPLATE, named
from keyvisor_policy.pkcs11.curves import CURVES
from keyvisor_policy.pkcs11.implied import CLASS, CLASSES_MADE, KEY_TYPE, KEY_TYPES_MADE
from keyvisor_policy.pkcs11.kinds import EC_PARAMS, NAMED
from keyvisor_policy.pkcs11.names import ATTRIBUTES, MECHANISMS

Part = Literal["call", "mechanism", "template", "key"]

CODES: Final[dict[Kind, str]] = {
    "mechanism": "CKR_MECHANISM_INVALID",
    "template": "CKR_TEMPLATE_INCONSISTENT",
    "use": "CKR_KEY_FUNCTION_NOT_PERMITTED",
}
"""The kind of a refusal -> what the application gets (architecture.md, section 5)."""


@dataclass(frozen=True, slots=True)
class Question:
    """A call, on an HSM that is held through the association rule `on`; None where no rule says so, or for any HSM."""

    call: str
    mechanism: int | None = None
    template: Template = field(default_factory=dict, hash=False)
    key: Template = field(default_factory=dict, hash=False)
    on: str | None = None

    def __str__(self) -> str:
        return self.call if self.mechanism is None else f"{self.call} with {mechanism_name(self.mechanism)}"


@dataclass(frozen=True, slots=True)
class Answer:
    """The decision, and the template that it was taken about."""

    decision: Decision
    template: Template

    @property
    def code(self) -> str:
        """What the application gets; CKR_OK stands for whatever the HSM says."""
        return "CKR_OK" if self.decision.allowed else CODES[self.decision.kind]


def ask(points: ControlPoints, question: Question) -> Answer:
    """What the points say: each template that the call is judged by must pass."""
    answers = [
        Answer(
            points.decide(question.call, question.mechanism, template, question.key, question.on), template
        )
        for template in judged(question)
    ]
    refused = (answer for answer in answers if not answer.decision.allowed)
    deciding = (answer for answer in answers if answer.decision.point is not None)
    return next(refused, None) or next(deciding, answers[-1])


def judged(question: Question) -> tuple[Template, ...]:
    """The templates of what the call makes; a class or a key type that the question gives is not put aside."""
    classes: Iterable[int] = CLASSES_MADE.get(question.call, ())
    key_type = None if question.mechanism is None else KEY_TYPES_MADE.get(question.mechanism)
    if not classes:
        return (question.template,)
    implied: dict[int, Value] = {} if key_type is None else {KEY_TYPE: key_type}
    each = [{**implied, CLASS: made, **question.template} for made in classes]
    return tuple(each[:1]) if CLASS in question.template else tuple(each)


def wrong_parts(question: Question) -> Iterator[tuple[Part, str]]:
    """What is wrong with a question: it gives what no such call has, or lacks what each has; and the part that it is about."""
    call = named(question.call)
    if question.mechanism is None and call in WITH_MECHANISM:
        yield "call", f"{question.call} has a mechanism; give it"
    if question.mechanism is not None and call not in WITH_MECHANISM:
        yield "mechanism", f"{question.call} has no mechanism; leave it out"
    if question.template and call not in WITH_TEMPLATE:
        yield "template", f"{question.call} makes and changes no object; leave `template` out"
    if question.key and call not in WITH_KEY:
        yield "key", f"{question.call} uses no key; leave `key` out"


def mechanism_name(number: int) -> str:
    """CKM_..., or the number in hex where it has no name."""
    return _name(number, MECHANISMS)


def attribute_name(number: int) -> str:
    """CKA_..., or the number in hex where it has no name."""
    return _name(number, ATTRIBUTES)


def value_text(attribute: int, value: Value) -> str:
    """A value as a policy writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return _name(value, NAMED[attribute]) if attribute in NAMED else str(value)
    if attribute == EC_PARAMS:
        curve = next((name for name, encodings in CURVES.items() if value in encodings), None)
        return curve or f"0x{value.hex()}"
    text = value.decode(errors="replace")
    plain = text.isprintable() and "�" not in text and not text.startswith("0x")
    return text if plain else f"0x{value.hex()}"


def _name(number: int, names: Mapping[str, int]) -> str:
    # Of two names for one number the newer comes last.
    return next((name for name, its in reversed([*names.items()]) if its == number), f"{number:#x}")
