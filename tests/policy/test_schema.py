"""The JSON Schema: fresh, sound, and in agreement with what the loader takes."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from keyvisor_policy import DocumentError, fields, parse
from keyvisor_policy.explanations import EXPLANATIONS
from keyvisor_policy.schema import DIALECT, generated, shipped
from keyvisor_policy.spellings import PATTERNS

ROOT = Path(__file__).resolve().parents[2]
SCHEMA: dict[str, Any] = json.loads(shipped())
SAID_ONLY = {"$schema", "$id", "$defs", "title", "description", "examples", "default"}


def errors(value: Any, schema: dict[str, Any], at: str = "$") -> Iterator[str]:
    """What the schema has against the value. Knows the keywords that the schema uses, and refuses any other."""
    known = {"$ref", "type", "const", "enum", "pattern", "maxLength", "minimum", "maximum", "anyOf", "items"}
    known |= {
        "properties",
        "patternProperties",
        "additionalProperties",
        "propertyNames",
        "required",
        "minItems",
    }
    assert set(schema) <= known | SAID_ONLY, set(schema) - known
    if "$ref" in schema:
        yield from errors(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], at)
    if "anyOf" in schema and all(list(errors(value, choice, at)) for choice in schema["anyOf"]):
        yield f"{at}: none of the choices"
    if "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(_is(value, one) for one in types):
            yield f"{at}: not {types}"
    if ("const" in schema and value != schema["const"]) or ("enum" in schema and value not in schema["enum"]):
        yield f"{at}: not the word"
    if isinstance(value, str):
        if "pattern" in schema and re.search(schema["pattern"], value) is None:
            yield f"{at}: not {schema['pattern']}"
        if len(value) > schema.get("maxLength", len(value)):
            yield f"{at}: too long"
    if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{at}: out of range"
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            yield f"{at}: too few"
        for number, item in enumerate(value):
            yield from errors(item, schema.get("items", {}), f"{at}[{number}]")
    if isinstance(value, dict):
        yield from _errors_of_mapping(value, schema, at)


def _errors_of_mapping(value: dict[str, Any], schema: dict[str, Any], at: str) -> Iterator[str]:
    yield from (f"{at}: lacks {key}" for key in schema.get("required", ()) if key not in value)
    for key, item in value.items():
        yield from errors(key, schema.get("propertyNames", {}), f"{at}.{key}")
        parts = [
            part for pattern, part in schema.get("patternProperties", {}).items() if re.search(pattern, key)
        ]
        parts += [schema["properties"][key]] if key in schema.get("properties", {}) else []
        rest = schema.get("additionalProperties")
        if not parts and rest is False:
            yield f"{at}: unknown {key}"
        if not parts and isinstance(rest, dict):
            parts = [rest]
        for part in parts:
            yield from errors(item, part, f"{at}.{key}")


def _is(value: Any, kind: str) -> bool:
    match kind:
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "null":
            return value is None
    return isinstance(value, {"string": str, "object": dict, "array": list}[kind])


class Editor(yaml.SafeLoader):
    """Takes `on` for a key like any other, as YAML 1.2 has it."""


Editor.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool") or first not in "oO"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def judged(text: str) -> list[str]:
    """What an editor with the schema would say."""
    return list(errors(yaml.load(text, Editor), SCHEMA))  # noqa: S506 - it is a SafeLoader


def policies() -> Iterator[tuple[str, str]]:
    """Every policy that the documents and examples show, tutorials put together."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    yield "README", next(block for block in blocks(readme) if "associations" in block)
    page = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")
    tutorial = [block for words, block in told(page) if "`policy.yaml`" in words]
    assert len(tutorial) == 7
    yield "tutorial", "".join(tutorial)
    yield "tutorial without never", "".join(tutorial[:-1])
    for path in sorted((ROOT / "configs").rglob("policy.yaml")):
        yield path.parent.name, path.read_text(encoding="utf-8")
    for code, explanation in EXPLANATIONS.items():
        yield f"{code} mended", explanation.mended
        if code != "invalid":
            yield code, explanation.example


def blocks(page: str) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)


def told(page: str) -> list[tuple[str, str]]:
    return re.findall(r"((?:[^\n]+\n)+)\n```yaml\n(.*?)```", page, re.DOTALL)


def test_the_shipped_schema_is_what_the_models_make() -> None:
    assert shipped() == generated(), "run `make docs`"


def test_it_is_a_schema_of_a_known_dialect_and_every_word_is_explained() -> None:
    assert SCHEMA["$schema"] == DIALECT
    assert SCHEMA["title"] == "keyvisor policy"
    for model in (SCHEMA, *SCHEMA["$defs"].values()):
        assert model["additionalProperties"] is False
        assert model["description"]
        assert not re.search("Fields|Entry", model["title"])
        for name, part in model["properties"].items():
            meant = SCHEMA["$defs"][part["$ref"].removeprefix("#/$defs/")] if "$ref" in part else part
            assert meant.get("description"), name
            assert meant.get("title"), name
            assert None not in (meant.get("default", 0), part.get("default", 0))


def test_every_word_of_the_grammar_is_in_it() -> None:
    assert set(SCHEMA["properties"]) == {"version", "associations", "requests", "never", "cases"}


def test_every_example_is_one_of_its_own_kind() -> None:
    def look(schema: Any) -> Iterator[tuple[dict[str, Any], Any]]:
        if isinstance(schema, dict):
            if isinstance(schema.get("examples"), list):
                yield from ((schema, example) for example in schema["examples"])
            for part in schema.values():
                yield from look(part)
        elif isinstance(schema, list):
            for part in schema:
                yield from look(part)

    examples = list(look(SCHEMA))
    assert len(examples) > 20
    for schema, example in examples:
        assert list(errors(example, schema)) == []


@pytest.mark.parametrize(("name", "text"), list(policies()), ids=[name for name, _ in policies()])
def test_what_the_documents_show_is_right_by_the_schema_and_loads(name: str, text: str) -> None:
    assert judged(text) == []
    assert parse(text)


HSM = "{apqn: '03.0011', mode: ep11, generation: CEX8}"
WRONG = [
    "{}",
    "version: 2",
    "version: 1\nassociation: []",
    "version: 1\nassociations: {}",
    "version: 1\nassociations: [{name: a}]",
    "version: 1\nassociations: [{hsm: {}}]",
    "version: 1\nassociations: [{name: no, hsm: {}}]",
    "version: 1\nassociations: [{name: ' a', hsm: {}}]",
    "version: 1\nassociations: [{name: a, hsm: {mode: cca}}]",
    "version: 1\nassociations: [{name: a, hsm: {seriel: AAAAAAAAAAAAAAAA}}]",
    "version: 1\nassociations: [{name: a, hsm: {serial: AAAA}}]",
    "version: 1\nassociations: [{name: a, hsm: {mkvp: '0x12'}}]",
    "version: 1\nassociations: [{name: a, hsm: {generation: CEX8}}]",
    "version: 1\nassociations: [{name: a, hsm: {generation: '>=CEX9'}}]",
    "version: 1\nassociations: [{name: a, hsm: {firmware: '>=8'}}]",
    "version: 1\nassociations: [{name: a, hsm: {api: '>4'}}]",
    "version: 1\nassociations: [{name: a, hsm: {compliance: fips}}]",
    "version: 1\nassociations: [{name: a, hsm: {}, count: 0}]",
    "version: 1\nassociations: [{name: a, hsm: {}, count: some}]",
    "version: 1\nassociations: [{name: a, hsm: {}, secret_id: '0x12'}]",
    "version: 1\nrequests: []",
    "version: 1\nrequests: {profiles: [no-exprt]}",
    "version: 1\nrequests: {rules: [{deny: {call: C_SignInit}}]}",
    "version: 1\nrequests: {rules: [{name: a, deny: {call: C_Sign}}]}",
    "version: 1\nrequests: {rules: [{name: a, deny: {call: []}}]}",
    "version: 1\nrequests: {rules: [{name: a, deny: {mechanism: CKM_RSA}}]}",
    "version: 1\nrequests: {rules: [{name: a, deny: {template: {CKA_VALUE: a}}}]}",
    "version: 1\nrequests: {rules: [{name: a, deny: {key: {CKA_SENSITVE: true}}}]}",
    "version: 1\nrequests: {rules: [{name: a, forbid: {call: C_SignInit}}]}",
    "version: 1\ncases: [{name: a, given: {}, expect: {}}]",
    "version: 1\ncases: [{name: a, given: {hsms: [{apqn: '03.0011', mode: ep11}]}, expect: {}}]",
    f"version: 1\ncases: [{{name: a, given: {{hsms: [{HSM}]}}}}]",
    f"version: 1\ncases: [{{name: a, given: {{hsms: [{HSM}]}}, expect: {{asociate: {{}}}}}}]",
    f"version: 1\ncases: [{{name: a, given: {{hsms: [{HSM}]}}, expect: {{associate: {{x: a}}}}}}]",
    f"version: 1\ncases: [{{name: a, given: {{hsms: [{HSM}]}}, expect: {{partly: 1}}}}]",
    f"version: 1\ncases: [{{name: a, given: {{hsms: [{HSM}], current: {{'03.0011': bond}}}}, expect: {{}}}}]",
    f"version: 1\ncases: [{{name: a, given: {{hsms: [{HSM}]}}, expect: {{refuse: [{{secret: a}}]}}}}]",
    *(
        f"version: 1\ncases: [{{name: a, given: {{hsms: [{HSM}]}}, expect: {{requests: [{{{request}}}]}}}}]"
        for request in (
            "call: C_Login",
            "is: allowed",
            "call: C_Login, is: forbidden",
            "call: C_Sign, is: allowed",
            "call: [C_Login], is: allowed",
            "call: C_SignInit, mechanism: [CKM_RSA_PKCS], is: allowed",
            "call: C_SignInit, mechanism: CKM_RSA, is: allowed",
            "call: C_CreateObject, template: {CKA_VALUE: a}, is: allowed",
            "call: C_CreateObject, template: {CKA_EXTRACTABLE: [true]}, is: allowed",
            "call: C_Login, is: allowed, because: a",
        )
    ),
    EXPLANATIONS["invalid"].example,
]


def test_requests_of_cases_are_right_by_the_schema_too() -> None:
    requests = """\
version: 1
associations: [{name: payments, hsm: {}}]
cases:
- name: a
  given: {hsms: []}
  expect:
    requests:
    - {on: payments, call: C_SignInit, mechanism: CKM_RSA_PKCS, key: {CKA_MODULUS_BITS: 2048}, is: allowed}
    - {call: C_MessageSignInit, mechanism: 0x80000001, is: refused}
    - {call: C_CreateObject, template: {CKA_CLASS: CKO_DATA, CKA_TOKEN: true, CKA_LABEL: a}, is: allowed}
"""
    assert judged(requests) == []
    assert len(parse(requests).cases[0].expect.requests) == 3


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_wrong_by_the_schema_and_does_not_load(text: str) -> None:
    assert judged(text)
    with pytest.raises(DocumentError):
        parse(text)


READERS: dict[str, Callable[[str], object]] = {name: getattr(fields, name) for name in PATTERNS}
PIECES = [
    "CEX",
    "cex8",
    "CEX4",
    "CEX9",
    "8.0",
    "7.10",
    "0",
    "4",
    "04",
    "12",
    ".",
    "..",
    ">=",
    "<=",
    "==",
    ">",
]
PIECES += [" ", "0x", "ab" * 16, "AB" * 32, "A" * 16, "a b", "é", "03.0011", "\t", "\n"]


@given(st.sampled_from(sorted(PATTERNS)), st.lists(st.sampled_from(PIECES), max_size=4).map("".join))
def test_what_a_field_takes_its_pattern_takes(name: str, text: str) -> None:
    try:
        READERS[name](text)
    except ValueError:
        return
    assert re.search(PATTERNS[name], text)


@given(st.data(), st.sampled_from(sorted(PATTERNS)))
def test_what_a_pattern_takes_its_field_takes(data: st.DataObject, name: str) -> None:
    text = data.draw(st.from_regex(PATTERNS[name], fullmatch=True))
    assume(text.isascii() and text.isprintable())  # `$` allows a line's end, and no pattern knows what prints
    with contextlib.suppress(_RangeIsEmpty):
        _read(name, text)


class _RangeIsEmpty(Exception):
    pass


def _read(name: str, text: str) -> None:
    try:
        READERS[name](text)
    except ValueError as error:
        raise _RangeIsEmpty if "the range is empty" in str(error) else error from error
