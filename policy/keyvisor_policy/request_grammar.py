"""The grammar of `requests` as pydantic models (policy.md, sections 1 and 3).

What the conditions say, and what must hold between values, is looked at in `request_loading`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainValidator

from keyvisor_policy import fields, request_fields, spellings
from keyvisor_policy.profiles import PROFILES
from keyvisor_policy.strict_yaml import StrictModel, from_text, one_of, read_text


def _name(value: object) -> str:
    return fields.name(read_text(value))


AttributeName = Annotated[str, from_text(lambda text: text), spellings.ATTRIBUTE]
Wanted = Annotated[object, PlainValidator(lambda value: value), spellings.WANTED]
Conditions = dict[AttributeName, Wanted]


class EffectFields(StrictModel):
    """Which requests are meant: everything that is given must match; what is left out is any."""

    call: Annotated[frozenset[str] | None, PlainValidator(request_fields.calls), spellings.CALLS] = None
    mechanism: Annotated[
        frozenset[int] | None, PlainValidator(request_fields.mechanisms), spellings.MECHANISMS
    ] = None
    template: Conditions = Field(
        default_factory=dict, description="What the request would make or change, attribute by attribute."
    )
    key: Conditions = Field(
        default_factory=dict, description="The key that the request uses, attribute by attribute."
    )


class PointFields(StrictModel):
    """One control point: it denies requests, or allows what a profile denies."""

    name: Annotated[str, PlainValidator(_name), spellings.POINT_NAME]
    deny: EffectFields | None = None
    allow: EffectFields | None = None
    on: Annotated[str | None, PlainValidator(_name), spellings.ON] = None


class RequestsFields(StrictModel):
    """Control points: what a guest may ask of the HSMs that it holds."""

    profiles: list[Annotated[str, one_of(*PROFILES), spellings.PROFILE]] = Field(
        default_factory=list, description="Sets of control points that come with keyvisor."
    )
    rules: list[PointFields] = Field(
        default_factory=list,
        description="Control points. A deny wins over an allow, an allow over a profile.",
    )


class ProfileFields(StrictModel):
    """A profile's file."""

    profile: Annotated[str, PlainValidator(_name)]
    about: Annotated[str, PlainValidator(read_text)]
    rules: list[PointFields]
