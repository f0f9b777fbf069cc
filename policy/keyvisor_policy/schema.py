"""The JSON Schema of a policy file, made from the grammar's models; for editors, which complete and check with it.

It is shipped as `policy.schema.json`, so that nothing has to be generated where it is needed. It says what a file
looks like; whether a policy is right says `policy check` alone.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

SHIPPED = "policy.schema.json"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
IDENTIFIER = "urn:keyvisor:policy:1"


def shipped() -> str:
    """The schema as it comes with the package."""
    return resources.files("keyvisor_policy").joinpath(SHIPPED).read_text(encoding="utf-8")


def generated() -> str:
    """The schema as the models are now, the text of `policy.schema.json`."""
    from keyvisor_policy.grammar import PolicyFields

    made = _tidy(PolicyFields.model_json_schema())
    head = {"$schema": DIALECT, "$id": IDENTIFIER, **made, "title": "keyvisor policy"}
    return json.dumps(head, indent=2, ensure_ascii=False) + "\n"


def _tidy(value: Any) -> Any:
    """Without what pydantic says of Python: keys that are left out are not null, and models are not classes."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    tidy = {key: _tidy(item) for key, item in value.items() if not (key == "default" and item is None)}
    choices = tidy.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        del tidy["anyOf"]
        (only,) = (choice for choice in choices if choice != {"type": "null"})
        tidy = {**only, **tidy}
    if "patternProperties" in tidy:
        tidy["additionalProperties"] = False
    if isinstance(tidy.get("title"), str):
        tidy["title"] = _words(tidy["title"])
    return tidy


def _words(title: str) -> str:
    """`Association` from `AssociationFields`; a title in words stays."""
    return re.sub(r"(?<=[a-z])(Fields|Entry)$", "", title)
