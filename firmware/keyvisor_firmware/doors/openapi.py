"""A door's description (OpenAPI 3.1), made from its table of routes and its messages: nothing is written twice."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from keyvisor_guest.wire.messages import APQN, GUEST_NAME, INDEX, Problem, Route

_PATTERNS: Final = {"name": GUEST_NAME, "apqn": APQN, "index": INDEX}
_REFUSALS: Final = {
    "404": "no such guest, HSM or policy",
    "409": "refused: an AP response code, a return code of the secret store, a code of protected keys, or a conflict",
    "413": "the body is too long",
    "422": "the path or the body is not what it should be; `findings` has all reasons",
}


def openapi(door: str, routes: tuple[Route, ...]) -> dict[str, object]:
    """The description of the door called `door`."""
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    messages: set[type[BaseModel]] = {Problem, *(route.answer for route in routes)}
    messages |= {route.body for route in routes if route.body is not None}
    wanted: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (message, "validation") for message in sorted(messages, key=lambda message: message.__name__)
    ]
    _, schemas = models_json_schema(wanted, ref_template="#/components/schemas/{model}")
    return {
        "openapi": "3.1.0",
        "info": {"title": f"keyvisor, the {door}'s door", "version": _version()},
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }


def _operation(route: Route) -> dict[str, object]:
    operation: dict[str, object] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": [_parameter(name) for name in re.findall(r"{(\w+)}", route.path)],
        "responses": {
            "200": {"description": "done", "content": _content(route.answer.__name__)},
            **{
                code: {"description": what, "content": _content("Problem")}
                for code, what in _REFUSALS.items()
            },
        },
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.body.__name__)}
    return operation


def _parameter(name: str) -> dict[str, object]:
    schema = {"type": "string", "pattern": _PATTERNS[name]}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _content(message: str) -> dict[str, object]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{message}"}}}


def _version() -> str:
    try:
        return version("keyvisor")
    except PackageNotFoundError:
        return "0"
