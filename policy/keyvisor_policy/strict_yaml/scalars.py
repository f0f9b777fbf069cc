"""What a scalar of a file may mean: the text exactly as it was written, and typed only where a model asks.

YAML guesses types from spelling: `no` is false, `012` is ten, `0x1f` is 31, `1:30` is ninety. Here nothing is
guessed. A quoted scalar reaches the model as `str`, an unquoted one as `Plain`, a `str` that remembers it had no
quotes. The model says with one of the types below what it wants; bare `int`, `bool` and `float` are refused by
pydantic's strict mode, so none is guessed by accident.

    Text       free text. An unquoted spelling that YAML would take for something else is an error: add quotes
    Verbatim   the characters as they stand, whatever YAML would make of them (hexadecimal digits, APQNs)
    Integer    an unquoted decimal number without sign or leading zero, at most 18 digits
    Boolean    unquoted `true` or `false`
    one_of     a word out of a list
    from_text  what a function makes of the characters as they stand; it raises ValueError with the finding
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

from pydantic import PlainValidator

from keyvisor_policy.strict_yaml.wording import described, expected_words

_INTEGER = re.compile(r"0|[1-9][0-9]{0,17}")

# What YAML 1.1 or 1.2 makes of an unquoted scalar. Order does not matter: no spelling is of two kinds.
SURPRISES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a truth value", re.compile(r"(?i:y|yes|n|no|true|false|on|off)")),
    ("nothing", re.compile(r"~|(?i:null)|")),
    (
        "a number",
        re.compile(
            r"[-+]?(?:0b[01_]+|0o[0-7]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*(?::[0-5]?[0-9])*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?"
            r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|\.(?i:inf))|\.(?i:nan)"
        ),
    ),
    ("a date", re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:(?:[Tt]|[ \t]+)[0-9:.Zz +-]+)?")),
    ("a merge or default key", re.compile(r"<<|=")),
)


class Plain(str):
    """A scalar without quotes, exactly as it was written."""

    __slots__ = ()


def surprise(text: str) -> str | None:
    """What YAML takes the unquoted `text` for, None where that is text."""
    return next((kind for kind, pattern in SURPRISES if pattern.fullmatch(text)), None)


def read_verbatim(value: object) -> str:
    """The scalar's characters. Raises ValueError for a mapping or a list."""
    if not isinstance(value, str):
        raise ValueError(f"expected text, found {described(value)}")  # noqa: TRY004  (pydantic collects ValueErrors)
    return str(value)


def read_text(value: object) -> str:
    """Free text. Raises ValueError for what is no scalar, or has no quotes and needs them."""
    text = read_verbatim(value)
    kind = surprise(text) if isinstance(value, Plain) else None
    if kind is not None:
        raise ValueError(f"expected text, but YAML reads {described(text)} as {kind}; put it in quotes")
    return text


def read_integer(value: object) -> int:
    """A whole number from 0. Raises ValueError for every other spelling."""
    if not (isinstance(value, Plain) and _INTEGER.fullmatch(value)):
        quotes = " in quotes" if isinstance(value, str) and not isinstance(value, Plain) else ""
        raise ValueError(f"expected a whole number in plain decimal digits, found {described(value)}{quotes}")
    return int(value)


def read_boolean(value: object) -> bool:
    """Raises ValueError for everything but unquoted `true` and `false`."""
    if not (isinstance(value, Plain) and value in ("true", "false")):
        quotes = " in quotes" if isinstance(value, str) and not isinstance(value, Plain) else ""
        raise ValueError(f"expected `true` or `false`, found {described(value)}{quotes}")
    return value == "true"


def from_text(parse: Callable[[str], object]) -> PlainValidator:
    """A field whose value `parse` makes from the characters as they stand."""
    return PlainValidator(lambda value: parse(read_verbatim(value)))


def one_of(*words: str) -> PlainValidator:
    """A field that holds one of `words`, quoted or not, in exactly this spelling."""

    def choose(text: str) -> str:
        if text not in words:
            raise ValueError(expected_words(text, words))
        return text

    return from_text(choose)


Text = Annotated[str, PlainValidator(read_text)]
Verbatim = Annotated[str, PlainValidator(read_verbatim)]
Integer = Annotated[int, PlainValidator(read_integer)]
Boolean = Annotated[bool, PlainValidator(read_boolean)]
