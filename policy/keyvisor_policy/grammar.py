"""The grammar of a policy file as pydantic models (policy.md, section 1).

What a single value may be stands in `fields`; what must hold between values is looked at in `loading`. The
words of the grammar that a later release brings are known here, so that a file with them is refused by name.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainValidator, RootModel

from keyvisor_policy import fields
from keyvisor_policy.hsms import SecretId
from keyvisor_policy.never import Is
from keyvisor_policy.rules import Interval
from keyvisor_policy.strict_yaml import StrictModel, Verbatim, from_text, read_integer, read_text
from keyvisor_policy.strict_yaml.wording import described, expected_words

VERSION = 1
NOT_YET = ("requests", "cases")
"""Words of the grammar that this release does not act on. Accepting them silently would promise a protection."""


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
    Is[str], PlainValidator(lambda value: fields.anything_but(fields.name)(read_text(value)))
]
NotYet = Annotated[None, PlainValidator(lambda value: value)]


class HsmFields(StrictModel):
    """`hsm`: every field given must match; a field left out is any."""

    mode: Annotated[str | None, from_text(_mode)] = None
    mkvp: Annotated[bytes | None, from_text(fields.mkvp)] = None
    serial: Annotated[str | None, from_text(fields.serial)] = None
    generation: Annotated[Interval[int] | None, from_text(fields.generations)] = None
    firmware: Annotated[Interval[tuple[int, int]] | None, from_text(fields.versions)] = None
    api: Annotated[Interval[int] | None, from_text(fields.numbers)] = None
    compliance: list[Name] = Field(default_factory=list)


class AssociationFields(StrictModel):
    """One entry of `associations`."""

    name: Name
    secret: Name | None = None
    secret_id: Annotated[SecretId | None, from_text(fields.secret_id)] = None
    hsm: HsmFields
    count: Annotated[int | None, PlainValidator(fields.count)] = 1


class NeverHsmFields(StrictModel):
    """`hsm` of `never`: a leading `!` is anything but this; what is left out is any, the mode too."""

    mode: Annotated[str | None, from_text(_mode)] = None
    mkvp: Annotated[Is[bytes] | None, from_text(fields.anything_but(fields.mkvp))] = None
    serial: Annotated[Is[str] | None, from_text(fields.anything_but(fields.serial))] = None
    generation: Annotated[Is[Interval[int]] | None, from_text(fields.anything_but(fields.generations))] = None
    firmware: Annotated[
        Is[Interval[tuple[int, int]]] | None, from_text(fields.anything_but(fields.versions))
    ] = None
    api: Annotated[Is[Interval[int]] | None, from_text(fields.anything_but(fields.numbers))] = None
    compliance: list[PresentOrNot] = Field(default_factory=list)


class NeverFields(StrictModel):
    """One entry of `never`: what can never meet; a secret or an HSM left out is any."""

    name: Name | None = None
    secret: Name | None = None
    secret_id: Annotated[SecretId | None, from_text(fields.secret_id)] = None
    hsm: NeverHsmFields | None = None


class PolicyFields(StrictModel):
    """The whole file."""

    version: Annotated[int, PlainValidator(_version)]
    associations: list[AssociationFields] = Field(default_factory=list)
    requests: NotYet = None
    never: list[NeverFields] = Field(default_factory=list)
    cases: NotYet = None


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
