"""File to policy: reads strictly, finds everything that is wrong, compiles to rules.

The two file formats meet here: a mapping is a policy of this grammar, a bare list is a pvapconfig file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import Literal, cast

from keyvisor_policy import case_loading, case_request_loading, fields, pvapconfig, request_loading
from keyvisor_policy.cases import MAX_CASES
from keyvisor_policy.errors import DocumentError, Finding
from keyvisor_policy.grammar import (
    AssociationFields,
    HsmFields,
    NeverFields,
    NeverHsmFields,
    PolicyFields,
)
from keyvisor_policy.hsms import secret_id
from keyvisor_policy.never import Description, Never
from keyvisor_policy.policy import Policy
from keyvisor_policy.rules import MAX_NEVERS, MAX_RULES, Pattern, Rule, Secret
from keyvisor_policy.strict_yaml import Document, examine, ordered, read_document, read_file
from keyvisor_policy.strict_yaml.document import Path
from keyvisor_policy.strict_yaml.wording import shown


def load(path: str | os.PathLike[str]) -> Policy:
    """The policy in the file `path`. Raises DocumentError with everything that is wrong with it."""
    return parse(read_file(path), os.fspath(path))


def parse(text: str | bytes, source: str = "policy.yaml") -> Policy:
    """The policy that `text` is; `source` is the name that findings about it begin with.

    Raises DocumentError with everything that is wrong with it, and nothing else, whatever the text.
    """
    document = read_document(text, source)
    digest = hashlib.sha256(text if isinstance(text, bytes) else text.encode()).digest()
    if isinstance(document.tree, list):
        _check_length(document, document.tree, ())
        return Policy(pvapconfig.rules(document), source, digest, "pvapconfig")
    return _policy(document, digest)


def _policy(document: Document, digest: bytes) -> Policy:
    policy = _examined(document)
    return Policy(
        tuple(_compiled(document, number, entry) for number, entry in enumerate(policy.associations)),
        document.source,
        digest,
        never=tuple(_compiled_never(document, number, entry) for number, entry in enumerate(policy.never)),
        cases=tuple(
            case_loading.compiled_case(document, number, entry) for number, entry in enumerate(policy.cases)
        ),
        control_points=request_loading.compiled_requests(document, policy.requests),
    )


def _examined(document: Document) -> PolicyFields:
    """The file's values. Raises DocumentError with everything that is wrong with them and between them."""
    entries, nevers = _entries(document, "associations"), _entries(document, "never")
    _check_length(document, entries, ("associations",))
    _check_length(document, nevers, ("never",), MAX_NEVERS, "entries of `never`")
    _check_length(document, _entries(document, "cases"), ("cases",), MAX_CASES, "cases")
    points = request_loading.entries(document)
    _check_length(document, points, request_loading.PATH, request_loading.MAX_POINTS, "control points")
    policy, findings = examine(document, PolicyFields)
    between = [
        *_between_values(document, entries),
        *_about_nevers(document, nevers),
        *request_loading.between_values(document),
        *case_loading.between_values(document),
        *case_request_loading.between_values(document),
    ]
    findings = ordered([*findings, *between])
    if policy is None or findings:
        raise DocumentError(findings)
    return policy


def _entries(document: Document, key: str) -> object:
    return document.tree.get(key) if isinstance(document.tree, dict) else None


def _check_length(
    document: Document, entries: object, path: Path, limit: int = MAX_RULES, what: str = "rules"
) -> None:
    """Raises DocumentError before anything looks at more entries than there may be."""
    if isinstance(entries, list) and len(entries) > limit:
        over = document.finding((*path, limit), f"more than the {limit} {what} that a policy may have")
        raise DocumentError(ordered([*document.findings, over]))


def _compiled(document: Document, number: int, entry: AssociationFields) -> Rule:
    line, column = document.place(("associations", number))
    return Rule(entry.name, _pattern(entry.hsm), _secret(entry), entry.count, line, column)


def _pattern(hsm: HsmFields) -> Pattern:
    """A rule that names no mode is for ep11: it has a secret, its name's if no other, and only ep11 takes one."""
    mode = cast("Literal['ep11', 'accel']", hsm.mode or "ep11")
    compliance = frozenset(hsm.compliance)
    return Pattern(mode, hsm.mkvp, hsm.serial, hsm.generation, hsm.firmware, hsm.api, compliance)


def _secret(entry: AssociationFields) -> Secret | None:
    if entry.hsm.mode == "accel":
        return None
    if entry.secret is None and entry.secret_id is not None:
        return Secret(entry.secret_id)
    name = entry.secret if entry.secret is not None else entry.name
    return Secret(secret_id(name), name)


def _compiled_never(document: Document, number: int, entry: NeverFields) -> Never:
    line, column = document.place(("never", number))
    secret = None
    if entry.secret is not None:
        secret = Secret(secret_id(entry.secret), entry.secret)
    elif entry.secret_id is not None:
        secret = Secret(entry.secret_id)
    return Never(_description(entry.hsm or NeverHsmFields()), secret, entry.name, line, column)


def _description(hsm: NeverHsmFields) -> Description:
    mode = cast("Literal['ep11', 'accel'] | None", hsm.mode)
    present = frozenset(name.value for name in hsm.compliance if not name.but)
    absent = frozenset(name.value for name in hsm.compliance if name.but)
    return Description(mode, hsm.mkvp, hsm.serial, hsm.generation, hsm.firmware, hsm.api, present, absent)


def _between_values(document: Document, entries: object) -> Iterator[Finding]:
    """What is wrong between values that may each be right. Looks at the tree, so that it is found in the same run."""
    lines: dict[str, int] = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else []):
        if isinstance(entry, dict):
            path: Path = ("associations", number)
            yield from _about_name(document, path, entry.get("name"), lines)
            yield from _about_secret(document, path, entry)


def _about_nevers(document: Document, entries: object) -> Iterator[Finding]:
    """An entry says something: of a secret, or of HSMs that it describes."""
    for number, entry in enumerate(entries if isinstance(entries, list) else []):
        if not isinstance(entry, dict):
            continue
        path: Path = ("never", number)
        if not {"secret", "secret_id"} & set(entry) and entry.get("hsm", {}) == {}:
            message = "expected a `secret`, an `hsm` with a field, or both; this would forbid everything"
            yield document.finding(path, message)
        yield from _about_secret(document, path, entry)


def _about_name(document: Document, path: Path, name: object, lines: dict[str, int]) -> Iterator[Finding]:
    """Rules are called by their names, so each has its own. `lines` collects where the first of each stands."""
    if not isinstance(name, str):
        return
    if name in lines:
        message = f"name: {shown(name)} is the name of another rule already, in line {lines[name]}"
        yield document.finding((*path, "name"), message)
    else:
        lines[name] = document.place((*path, "name"))[0]


def _about_secret(document: Document, path: Path, entry: Mapping[str, object]) -> Iterator[Finding]:
    """An accelerator takes no secret; a name and an id that are both given must agree."""
    hsm = entry.get("hsm")
    if isinstance(hsm, dict) and hsm.get("mode") == "accel":
        for key in ("secret", "secret_id"):
            if key in entry:
                message = f"{key}: an accelerator is bound and never associated; remove `{key}`"
                yield Finding(document.source, *document.key_place((*path, key)), message)
        return
    name, given = entry.get("secret"), entry.get("secret_id")
    if not isinstance(name, str) or not isinstance(given, str):
        return
    try:
        agreed = fields.secret_id(given) == secret_id(name)
    except ValueError:
        return  # the id is no id at all, which has its finding already
    if not agreed:
        message = f"secret_id: differs from the id of {shown(name)}, which is `{secret_id(name).hex()}`; drop one of them"
        yield document.finding((*path, "secret_id"), message)
