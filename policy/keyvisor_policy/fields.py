"""The spellings of single fields: what stands in a file, made into values. One function per field.

Each takes the characters as they stand and raises ValueError with what was expected. Used by both file formats
and by inventories. Knows nothing of files or rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from keyvisor_policy.hsms import MKVP_LENGTH, NEWEST_GENERATION, OLDEST_GENERATION, SECRET_ID_LENGTH, SecretId
from keyvisor_policy.never import Is
from keyvisor_policy.rules import MAX_COUNT, Interval, T
from keyvisor_policy.strict_yaml.wording import described, expected_words, shown

V = TypeVar("V")

MAX_NAME = 4096  # characters of a name
SERIAL_LENGTH = 16

_HEX = re.compile(r"(?:0x)?([0-9a-fA-F]+)")
_APQN = re.compile(r"[0-9a-f]{2}\.[0-9a-f]{4}", re.IGNORECASE)
_GENERATION = re.compile(r"CEX([0-9])", re.IGNORECASE)
_VERSION = re.compile(r"(0|[1-9][0-9]{0,4})\.(0|[1-9][0-9]{0,4})")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_OPERATORS = ((">=", True, False), ("<=", False, True), ("==", True, True))
_GENERATIONS = [f"CEX{number}" for number in range(OLDEST_GENERATION, NEWEST_GENERATION + 1)]


def mkvp(text: str) -> bytes:
    """16 bytes from 32 or 64 hex digits, `0x` before them or not; of 64 the first 32 count (patents, 2.3; formats, F.1)."""
    match = _HEX.fullmatch(text)
    if match is None or len(match[1]) not in (2 * MKVP_LENGTH, 4 * MKVP_LENGTH):
        raise ValueError(f"expected 32 or 64 hex digits, found {described(text)}")
    return bytes.fromhex(match[1])[:MKVP_LENGTH]


def secret_id(text: str) -> SecretId:
    """32 bytes from 64 hex digits, `0x` before them or not."""
    match = _HEX.fullmatch(text)
    if match is None or len(match[1]) != 2 * SECRET_ID_LENGTH:
        raise ValueError(f"expected 64 hex digits, found {described(text)}")
    return SecretId(bytes.fromhex(match[1]))


def apqn(text: str) -> str:
    """`03.0011`, in lower case."""
    if _APQN.fullmatch(text) is None:
        raise ValueError(f"expected card.domain in hex, as in `03.0011`, found {described(text)}")
    return text.lower()


def serial(text: str) -> str:
    """A card's serial number: exactly 16 characters that print, none of them blank; case matters."""
    if len(text) != SERIAL_LENGTH or any(
        not character.isprintable() or character.isspace() for character in text
    ):
        raise ValueError(f"expected exactly 16 characters without blanks, found {described(text)}")
    return text


def name(text: str) -> str:
    """The name of a rule, a secret or a compliance set: it prints, is not empty and has no blanks at its ends."""
    if not text.strip():
        raise ValueError(f"expected a name, found {described(text)}")
    if len(text) > MAX_NAME:
        raise ValueError(f"expected at most {MAX_NAME} characters, found {len(text)}")
    if text != text.strip() or not text.isprintable():
        raise ValueError(
            f"expected a name without blanks at its ends or characters that do not print, found {shown(text)}"
        )
    return text


def generation(text: str) -> int:
    """4 to 8 from `CEX4` to `CEX8`, in any case."""
    match = _GENERATION.fullmatch(text)
    if match is None or not OLDEST_GENERATION <= int(match[1]) <= NEWEST_GENERATION:
        raise ValueError(expected_words(text, _GENERATIONS))
    return int(match[1])


def version(text: str) -> tuple[int, int]:
    """(8, 0) from `8.0`."""
    match = _VERSION.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a version such as `8.0`, found {described(text)}")
    return int(match[1]), int(match[2])


def number(text: str) -> int:
    """A whole number of at most nine digits."""
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(f"expected a whole number, found {described(text)}")
    return int(text)


def generations(text: str) -> Interval[int]:
    """`>=CEX8`, `==CEX8`, `<=CEX8` or `CEX6..CEX8`."""
    return _interval(text, generation, "CEX6", "CEX8")


def versions(text: str) -> Interval[tuple[int, int]]:
    """`>=8.0`, `==8.0`, `<=8.0` or `7.1..8.0`."""
    return _interval(text, version, "7.1", "8.0")


def numbers(text: str) -> Interval[int]:
    """`>=4`, `==4`, `<=4` or `2..4`."""
    return _interval(text, number, "2", "4")


def count(value: object) -> int | None:
    """How many HSMs a rule wants: a whole number from 1, or None for `all`."""
    text = value if isinstance(value, str) else ""
    if text == "all":
        return None
    if _NUMBER.fullmatch(text) is None or not 1 <= int(text) <= MAX_COUNT:
        raise ValueError(f"expected a whole number from 1 to {MAX_COUNT}, or `all`, found {described(value)}")
    return int(text)


def anything_but(read: Callable[[str], V]) -> Callable[[str], Is[V]]:
    """What `read` reads, or, behind a leading `!`, anything but that."""

    def either(text: str) -> Is[V]:
        if not text.startswith("!"):
            return Is(read(text))
        try:
            return Is(read(text[1:].strip(" ")), but=True)
        except ValueError as error:
            raise ValueError(f"behind `!`: {error}") from None

    return either


def _interval(text: str, read: Callable[[str], T], low: str, high: str) -> Interval[T]:
    try:
        for operator, is_lowest, is_highest in _OPERATORS:
            if text.startswith(operator):
                end = read(text[len(operator) :].strip(" "))
                return Interval(end if is_lowest else None, end if is_highest else None)
        lowest, dots, highest = text.partition("..")
        if dots:
            return _range(read(lowest.strip(" ")), read(highest.strip(" ")), text)
    except ValueError as error:
        raise ValueError(f"in {shown(text)}: {error}") from None
    forms = f"`>={high}`, `=={high}`, `<={high}` or `{low}..{high}`"
    raise ValueError(f"expected an operator, as in {forms}, found {described(text)}")


def _range(lowest: T, highest: T, text: str) -> Interval[T]:
    if lowest > highest:
        raise ValueError("the range is empty, its first end is above its last")
    return Interval(lowest, highest)
