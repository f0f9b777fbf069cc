"""The grammar of a policy file as pydantic models (policy.md, section 1).

What a single value may be stands in `fields`; what must hold between values is looked at in `loading`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainValidator, RootModel

from keyvisor_policy import fields, spellings
from keyvisor_policy.case_grammar import CaseFields
from keyvisor_policy.hsms import SecretId
from keyvisor_policy.never import Is
from keyvisor_policy.request_grammar import RequestsFields
from keyvisor_policy.rules import Interval
from keyvisor_policy.strict_yaml import StrictModel, Verbatim, from_text, read_integer, read_text
from keyvisor_policy.strict_yaml.wording import described, expected_words

VERSION = 1


def _version(value: object) -> int:
    try:
        known = read_integer(value) == VERSION
    except ValueError:
        known = False
    if not known:
        raise ValueError(
            f"expected `{VERSION}`, the only version there is, without quotes, found {described(value)}"
        )
    return VERSION


def _name(value: object) -> str:
    return fields.name(read_text(value))


def _mode(text: str) -> str:
    if text == "cca":
        raise ValueError("expected `ep11` or `accel`, found `cca`; a CCA HSM can never be bound")
    if text not in ("ep11", "accel"):
        raise ValueError(expected_words(text, ("ep11", "accel")))
    return text


Name = Annotated[str, PlainValidator(_name)]
PresentOrNot = Annotated[
    Is[str],
    PlainValidator(lambda value: fields.anything_but(fields.name)(read_text(value))),
    spellings.NEVER_COMPLIANCE,
]


class HsmFields(StrictModel):
    """What the HSM must be: every field given must match; a field left out is any."""

    mode: Annotated[str | None, from_text(_mode), spellings.RULE_MODE] = None
    mkvp: Annotated[bytes | None, from_text(fields.mkvp), spellings.RULE_MKVP] = None
    serial: Annotated[str | None, from_text(fields.serial), spellings.RULE_SERIAL] = None
    generation: Annotated[Interval[int] | None, from_text(fields.generations), spellings.GENERATIONS] = None
    firmware: Annotated[Interval[tuple[int, int]] | None, from_text(fields.versions), spellings.VERSIONS] = (
        None
    )
    api: Annotated[Interval[int] | None, from_text(fields.numbers), spellings.NUMBERS] = None
    compliance: list[Annotated[Name, spellings.COMPLIANCE]] = Field(
        default_factory=list, description="All of these sets the HSM must follow."
    )


class AssociationFields(StrictModel):
    """One entry of `associations`: which secret meets which HSM."""

    name: Annotated[Name, spellings.RULE_NAME]
    secret: Annotated[Name | None, PlainValidator(_name), spellings.SECRET_NAME] = None
    secret_id: Annotated[SecretId | None, from_text(fields.secret_id), spellings.SECRET_ID] = None
    hsm: HsmFields
    count: Annotated[int | None, PlainValidator(fields.count), spellings.COUNT] = 1


class NeverHsmFields(StrictModel):
    """Which HSMs are meant: a leading `!` is anything but this; what is left out is any, the mode too."""

    mode: Annotated[str | None, from_text(_mode), spellings.NEVER_MODE] = None
    mkvp: Annotated[Is[bytes] | None, from_text(fields.anything_but(fields.mkvp)), spellings.NEVER_MKVP] = (
        None
    )
    serial: Annotated[
        Is[str] | None, from_text(fields.anything_but(fields.serial)), spellings.NEVER_SERIAL
    ] = None
    generation: Annotated[
        Is[Interval[int]] | None,
        from_text(fields.anything_but(fields.generations)),
        spellings.NEVER_GENERATIONS,
    ] = None
    firmware: Annotated[
        Is[Interval[tuple[int, int]]] | None,
        from_text(fields.anything_but(fields.versions)),
        spellings.NEVER_VERSIONS,
    ] = None
    api: Annotated[
        Is[Interval[int]] | None, from_text(fields.anything_but(fields.numbers)), spellings.NEVER_NUMBERS
    ] = None
    compliance: list[PresentOrNot] = Field(
        default_factory=list, description="Sets that are followed, or with `!` are not; all of it."
    )


class NeverFields(StrictModel):
    """One entry of `never`: what can never meet; a secret or an HSM left out is any."""

    name: Annotated[Name | None, PlainValidator(_name), spellings.NEVER_NAME] = None
    secret: Annotated[Name | None, PlainValidator(_name), spellings.SECRET_NAME] = None
    secret_id: Annotated[SecretId | None, from_text(fields.secret_id), spellings.SECRET_ID] = None
    hsm: NeverHsmFields | None = None


class PolicyFields(StrictModel):
    """A policy: which secret meets which HSM, and what must come of it."""

    version: Annotated[int, PlainValidator(_version), spellings.VERSION]
    associations: list[AssociationFields] = Field(
        default_factory=list, description="Rules; their order is their priority."
    )
    requests: RequestsFields | None = None
    never: list[NeverFields] = Field(
        default_factory=list, description="What must never be; `policy prove` decides whether it can."
    )
    cases: list[CaseFields] = Field(default_factory=list, description="Tests that `policy test` runs.")


class PvapconfigEntry(StrictModel):
    """One entry of a pvapconfig file: text throughout, an empty text is as good as none (formats, F.1)."""

    name: Verbatim = ""
    description: Verbatim = ""
    mode: Verbatim = ""
    mkvp: Verbatim = ""
    serialnr: Verbatim = ""
    mingen: Verbatim = ""
    secretid: Verbatim = ""


class PvapconfigList(RootModel[list[PvapconfigEntry]]):
    """A whole pvapconfig file."""
