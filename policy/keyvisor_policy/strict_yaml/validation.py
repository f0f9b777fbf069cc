"""Document to model: pydantic checks, and what it finds is said in plain words at its place.

Knows pydantic's error types; knows nothing of what the models are for.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable, Iterable
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, RootModel, ValidationError
from pydantic_core import ErrorDetails

from keyvisor_policy.errors import DocumentError, Finding
from keyvisor_policy.strict_yaml.composing import LIMITS
from keyvisor_policy.strict_yaml.document import REPORTED, Document, Path
from keyvisor_policy.strict_yaml.wording import described, escaped, expected_words, listed, nearest, shown

M = TypeVar("M", bound=BaseModel)


class StrictModel(BaseModel):
    """A mapping of a file: nothing unknown, nothing converted. Fields use the types of `scalars`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def validate(document: Document, model: type[M]) -> M:
    """The document as `model` (best a StrictModel). Raises DocumentError with everything that is wrong in the file."""
    result, findings = examine(document, model)
    if result is None or findings:
        raise DocumentError(findings)
    return result


def examine(document: Document, model: type[M]) -> tuple[M | None, tuple[Finding, ...]]:
    """Like `validate`, for callers that look for more: the model, if it could be made, and all findings so far."""
    findings = list(document.findings)
    try:
        result = model.model_validate(document.tree)
    except ValidationError as error:
        details = (detail for detail in error.errors(include_url=False) if detail["input"] is not REPORTED)
        findings += [_finding(document, model, detail) for detail in details]
        return None, ordered(findings)
    return result, ordered(findings)


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings in the file's order, each once, and no more than a person or a message can take."""
    found = sorted(dict.fromkeys(findings), key=lambda finding: (finding.line, finding.column))
    if len(found) <= LIMITS.findings:
        return tuple(found)
    last = found[LIMITS.findings]
    rest = f"{len(found) - LIMITS.findings} more errors from here on are left out"
    return (*found[: LIMITS.findings], Finding(last.source, last.line, last.column, rest))


def _finding(document: Document, model: type[BaseModel], detail: ErrorDetails) -> Finding:
    path: Path = tuple(detail["loc"])
    if detail["type"] == "missing":
        return document.finding(path, f"the key `{path[-1]}` is missing")
    if detail["type"] == "extra_forbidden":
        message = _unknown_key(str(path[-1]), _keys_at(model, path[:-1]))
        return Finding(document.source, *document.key_place(path), message)
    if path and path[-1] == "[key]":  # pydantic's way to say that the key of a mapping is wrong
        place = document.key_place(path[:-1])
        return Finding(document.source, *place, f"{escaped(str(path[-3]))}: {_raised(detail)}")
    field = next((step for step in reversed(path) if isinstance(step, str)), None)
    words = _WORDS.get(detail["type"], _plainly)(detail)
    return document.finding(path, words if field is None else f"{escaped(field)}: {words}")


def _unknown_key(key: str, keys: list[str]) -> str:
    meant = nearest(key, keys)
    if meant is not None:
        return f"unknown key {shown(key)}; did you mean `{meant}`?"
    return f"unknown key {shown(key)}; expected {listed(keys)}" if keys else f"unknown key {shown(key)}"


def _keys_at(model: type[BaseModel], path: Path) -> list[str]:
    """The keys that the mapping at `path` may have, according to the model."""
    here: object = _model_in(model.model_fields["root"].annotation) if issubclass(model, RootModel) else model
    for step in path:
        if isinstance(step, int):
            continue
        fields = here.model_fields if isinstance(here, type) and issubclass(here, BaseModel) else {}
        field = next((info for name, info in fields.items() if step in (name, info.alias)), None)
        here = _model_in(field.annotation) if field is not None else None
    if not (isinstance(here, type) and issubclass(here, BaseModel)):
        return []
    return [info.alias or name for name, info in here.model_fields.items()]


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := _model_in(part))), None)


def _expected(what: str) -> Callable[[ErrorDetails], str]:
    return lambda detail: (
        f"expected {what.format_map(detail.get('ctx', {}))}, found {described(detail['input'])}"
    )


def _choice(detail: ErrorDetails) -> str:
    words = re.findall(r"'([^']*)'", str(detail.get("ctx", {}).get("expected", "")))
    found = detail["input"]
    return (
        expected_words(found, words)
        if isinstance(found, str) and words
        else _expected(listed(words or ["?"]))(detail)
    )


def _raised(detail: ErrorDetails) -> str:
    return str(detail.get("ctx", {}).get("error", detail["msg"]))


def _plainly(detail: ErrorDetails) -> str:
    message = detail["msg"].rstrip(".")
    return f"{message[:1].lower()}{message[1:]}, found {described(detail['input'])}"


_MAPPING, _LIST, _TEXT = _expected("a mapping"), _expected("a list"), _expected("text")
_NUMBER = _expected("a whole number in plain decimal digits")
_WORDS: dict[str, Callable[[ErrorDetails], str]] = {
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "dict_type": _MAPPING,
    "mapping_type": _MAPPING,
    "list_type": _LIST,
    "tuple_type": _LIST,
    "set_type": _LIST,
    "frozen_set_type": _LIST,
    "string_type": _TEXT,
    "int_type": _NUMBER,
    "bool_type": _expected("`true` or `false`"),
    "literal_error": _choice,
    "enum": _choice,
    "greater_than": _expected("more than {gt}"),
    "greater_than_equal": _expected("at least {ge}"),
    "less_than": _expected("less than {lt}"),
    "less_than_equal": _expected("at most {le}"),
    "string_too_short": _expected("at least {min_length} characters"),
    "string_too_long": _expected("at most {max_length} characters"),
    "string_pattern_mismatch": _expected("text of the form {pattern}"),
    "too_short": lambda detail: "expected at least {min_length} items, found {actual_length}".format_map(
        detail.get("ctx", {})
    ),
    "too_long": lambda detail: "expected at most {max_length} items, found {actual_length}".format_map(
        detail.get("ctx", {})
    ),
    "value_error": _raised,
    "assertion_error": _raised,
}
