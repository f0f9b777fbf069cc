"""A list of HSMs from a file: what to plan for without a machine.

Takes YAML or JSON: a list of HSMs as in a policy's `given.hsms`, a mapping with such a list under `hsms`, or what
`keyvisor guest hsms --json` prints, which also says what each HSM is to the guest now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, TypeVar, cast

from pydantic import Field, PlainValidator, RootModel

from keyvisor_policy import fields, spellings
from keyvisor_policy.errors import DocumentError
from keyvisor_policy.hsms import MODES, Holding, Hsm, Mode, SecretId, holding
from keyvisor_policy.strict_yaml import (
    Boolean,
    Document,
    Integer,
    Plain,
    StrictModel,
    Verbatim,
    examine,
    from_text,
    one_of,
    ordered,
    read_document,
    read_verbatim,
)

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Inventory:
    """HSMs in the file's order, and what they are to the guest now, by APQN; one that is not there is unbound."""

    hsms: tuple[Hsm, ...]
    current: Mapping[str, Holding]


def parse_inventory(text: str | bytes, source: str = "hsms.yaml") -> Inventory:
    """Read a list of HSMs. What is not given is the lowest there is; an HSM is online unless it says otherwise.

    Raises DocumentError with everything that is wrong.
    """
    document = read_document(text, source)
    path: tuple[str, ...] = ()
    if isinstance(document.tree, dict):
        listed, findings = examine(document, _Wrapped)
        entries, path = (listed.hsms if listed else []), ("hsms",)
    else:
        bare, findings = examine(document, _Bare)
        entries = bare.root if bare else []
    if findings:
        raise DocumentError(findings)
    current = _current(document, path, entries)
    return Inventory(tuple(map(hsm_of, entries)), current)


def _unless_null(read: Callable[[str], V]) -> PlainValidator:
    """JSON says `null` where YAML leaves a key out."""
    return PlainValidator(
        lambda value: None if isinstance(value, Plain) and value == "null" else read(read_verbatim(value))
    )


class HsmEntry(StrictModel):
    """One HSM: its configuration. What is not given is the lowest there is."""

    apqn: Annotated[str, from_text(fields.apqn), spellings.APQN]
    mode: Annotated[str, one_of(*MODES), spellings.MODE]
    generation: Annotated[int, from_text(fields.generation), spellings.GENERATION]
    serial: Annotated[Verbatim, spellings.SERIAL] = ""
    mkvp: Annotated[bytes | None, _unless_null(fields.mkvp), spellings.MKVP] = None
    firmware: Annotated[tuple[int, int], from_text(fields.version), spellings.FIRMWARE] = (0, 0)
    api: Annotated[Integer, spellings.API] = 0
    compliance: list[Annotated[Verbatim, spellings.COMPLIANCE]] = Field(
        default_factory=list, description="The sets that the HSM follows."
    )
    online: Annotated[Boolean, spellings.ONLINE] = True


class _Entry(HsmEntry):
    state: Annotated[str, one_of("unbound", "bound", "pending", "associated", "failed")] = "unbound"
    secret_id: Annotated[SecretId | None, _unless_null(fields.secret_id)] = None


class _Bare(RootModel[list[_Entry]]):
    pass


class _Wrapped(StrictModel):
    hsms: list[_Entry]


def hsm_of(entry: HsmEntry) -> Hsm:
    """The HSM that the entry of a file describes."""
    return Hsm(
        apqn=entry.apqn,
        mode=cast("Mode", entry.mode),
        generation=entry.generation,
        serial=entry.serial,
        mkvp=entry.mkvp,
        firmware=entry.firmware,
        api=entry.api,
        compliance=frozenset(entry.compliance),
        online=entry.online,
    )


def _current(document: Document, path: tuple[str, ...], entries: list[_Entry]) -> dict[str, Holding]:
    current: dict[str, Holding] = {}
    findings = []
    for number, entry in enumerate(entries):
        try:
            now = holding(entry.state, entry.secret_id)
        except ValueError:
            findings.append(document.finding((*path, number), "an associated HSM needs its `secret_id`"))
            continue
        if now is not None:
            current[entry.apqn] = now
    if findings:
        raise DocumentError(ordered(findings))
    return current
