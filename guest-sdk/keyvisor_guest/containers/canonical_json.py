"""JSON of which every value has one spelling: members sorted, no white space, ASCII, whole numbers only.

What is signed or hashed is these bytes, so a reader takes no others. Knows no document.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

__all__ = ["MAX_NUMBER", "NotCanonical", "decode", "encode"]

MAX_NUMBER: Final = (1 << 64) - 1
_DIGITS: Final = 20  # of the largest number
_MAX_DEPTH: Final = 16
_BRACKETS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]')


class NotCanonical(ValueError):
    """Bytes that are not canonical JSON. The text says why."""


def encode(value: Any) -> bytes:
    """The value's only spelling. Raises NotCanonical for what has none: floats, numbers below 0 or above 2^64-1."""
    _check(value)
    return json.dumps(
        value, ensure_ascii=True, allow_nan=False, sort_keys=True, separators=(",", ":")
    ).encode("ascii")


def decode(data: bytes) -> Any:
    """The value that `data` spells. Raises NotCanonical for everything that `encode` would not have written."""
    _check_depth(data)
    try:
        value = json.loads(
            data.decode("ascii"),
            parse_float=_no_number,
            parse_constant=_no_number,
            parse_int=_number,
            object_pairs_hook=_members,
        )
    except NotCanonical:
        raise
    except (ValueError, RecursionError) as error:
        raise NotCanonical("this is not JSON in ASCII") from error
    if encode(value) != data:
        raise NotCanonical("this JSON is spelled differently than it is written")
    return value


def _check_depth(data: bytes) -> None:
    """Counted before anything is built: a parser's stack is not ours to fill."""
    depth = 0
    for found in _BRACKETS.finditer(data):
        if found[0] in (b"[", b"{"):
            depth += 1
            if depth > _MAX_DEPTH:
                raise NotCanonical(f"this JSON is nested deeper than {_MAX_DEPTH}")
        elif found[0] in (b"]", b"}"):
            depth -= 1


def _number(text: str) -> int:
    if len(text) > _DIGITS:
        raise NotCanonical("a number is larger than 64 bits")
    return int(text)


def _no_number(text: str) -> NoReturn:
    raise NotCanonical(
        f"`{text[:20]}` is no whole number"
    )  # the parser knows it for a number: it can be printed


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotCanonical("a member is there twice")
    return members


def _check(value: Any) -> None:
    match value:
        case bool() | None | str():
            pass
        case int():
            if not 0 <= value <= MAX_NUMBER:
                raise NotCanonical("a number is not within 0 and 2^64-1")
        case list() | tuple():
            for one in value:
                _check(one)
        case dict():
            for name, one in value.items():
                if not isinstance(name, str):
                    raise NotCanonical("a member's name is no text")
                _check(one)
        case _:
            raise NotCanonical(f"a {type(value).__name__} has no canonical spelling")
