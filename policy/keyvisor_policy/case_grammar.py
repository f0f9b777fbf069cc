"""The grammar of `cases` as pydantic models (policy.md, section 1).

What must hold between values is looked at in `case_loading`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainValidator

from keyvisor_policy import fields, question_fields, spellings
from keyvisor_policy.hsms import Holding, secret_id
from keyvisor_policy.inventory import HsmEntry
from keyvisor_policy.rules import Secret
from keyvisor_policy.strict_yaml import Boolean, StrictModel, from_text, one_of, read_text, read_verbatim
from keyvisor_policy.strict_yaml.wording import described, expected_words


def _name(value: object) -> str:
    return fields.name(read_text(value))


def _secret(value: object) -> Secret:
    text = read_verbatim(value)
    if text.startswith("0x"):
        return Secret(fields.secret_id(text))
    name = _name(value)
    return Secret(secret_id(name), name)


def _now(value: object) -> Holding:
    if isinstance(value, dict):
        if list(value) != ["associated"]:
            raise ValueError("expected `bound` or `{associated: SECRET}`, found other keys")
        return Holding(_secret(value["associated"]).id)
    if not isinstance(value, str):
        raise ValueError(f"expected `bound` or `{{associated: SECRET}}`, found {described(value)}")  # noqa: TRY004
    if value != "bound":
        raise ValueError(expected_words(value, ("bound", "{associated: SECRET}")))
    return Holding()


Apqn = Annotated[str, from_text(fields.apqn), spellings.APQN]
SecretText = Annotated[Secret, PlainValidator(_secret), spellings.SECRET]
RuleName = Annotated[str, PlainValidator(_name), spellings.EXPECTED_RULE]


class GivenFields(StrictModel):
    """What there is: HSMs, the secrets that the guest holds, and what HSMs are to it now."""

    hsms: list[HsmEntry] = Field(description="The HSMs of the guest.")
    secrets: list[SecretText] = Field(default_factory=list, description="The secrets that the guest holds.")
    current: dict[Apqn, Annotated[Holding, PlainValidator(_now), spellings.NOW]] = Field(
        default_factory=dict, description="What HSMs are to the guest now; one that is left out is unbound."
    )


class RefusedFields(StrictModel):
    """An association that no rule may allow."""

    secret: SecretText
    apqn: Apqn


Given = dict[
    Annotated[str, from_text(lambda text: text), spellings.ATTRIBUTE],
    Annotated[object, PlainValidator(lambda value: value), spellings.GIVEN],
]


class RequestFields(StrictModel):
    """A call that an application makes, and what comes of it."""

    on: Annotated[str | None, PlainValidator(_name), spellings.ASKED_ON] = None
    call: Annotated[str, PlainValidator(question_fields.call), spellings.ASKED_CALL]
    mechanism: Annotated[int | None, PlainValidator(question_fields.mechanism), spellings.ASKED_MECHANISM] = (
        None
    )
    template: Given = Field(
        default_factory=dict,
        description="The object that the call would make or change, attribute by attribute.",
    )
    key: Given = Field(
        default_factory=dict, description="The key that the call uses, attribute by attribute."
    )
    outcome: Annotated[str, Field(alias="is"), one_of("refused", "allowed"), spellings.OUTCOME]
    by: Annotated[str | None, PlainValidator(_name), spellings.DECIDED_BY] = None


class ExpectFields(StrictModel):
    """What must come of it, all of it."""

    associate: dict[Apqn, SecretText] | None = Field(
        default=None, description="Which HSM is associated with which secret; no other one is."
    )
    bind: list[Apqn] | None = Field(
        default=None, description="Which HSMs are bound as accelerators; no other one is."
    )
    unmet: list[RuleName] | None = Field(
        default=None, description="Rules that do not get what they want; every other one does."
    )
    unbound: list[Apqn] = Field(default_factory=list, description="HSMs that no rule gets.")
    refuse: list[RefusedFields] = Field(
        default_factory=list, description="Associations that the firmware must refuse, whatever is planned."
    )
    requests: list[RequestFields] = Field(
        default_factory=list, description="Calls that applications make of HSMs that the plan holds."
    )
    partly: Annotated[Boolean, spellings.PARTLY] = False


class CaseFields(StrictModel):
    """One entry of `cases`: a test that travels with the policy."""

    name: Annotated[str, PlainValidator(_name), spellings.CASE_NAME]
    given: GivenFields
    expect: ExpectFields
