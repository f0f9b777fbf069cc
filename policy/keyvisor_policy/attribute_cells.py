"""What values an attribute can have, as far as some conditions tell them apart: a value for each cell.

A condition compares an attribute with constants, so its values fall into finitely many cells: not there, each constant,
what lies between two, and the sets of patterns that a text can fit. Values are of the attribute's kind. Pure; knows no
control points.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final

from keyvisor_policy.control_points import Between, Condition, Is, Like, Match, Template, Value
from keyvisor_policy.errors import Undecidable
from keyvisor_policy.pkcs11.kinds import NAMED, NUMBERS, TRUTH_VALUES
from keyvisor_policy.text_cells import representatives

_MOST: Final = (1 << 64) - 1  # of a CK_ULONG

_LONGEST: Final = 1 << 16  # bits of a number that tells a size; no template holds one that is longer

ABSENT: Final[Template] = {}


def cells(attribute: int, conditions: Iterable[Condition]) -> tuple[Template, ...]:
    """One template for each cell of an attribute and what tells its size (`SIZES`): none is the first.

    `conditions` are on this attribute, or on the number that tells it. Raises Undecidable.
    """
    by_attribute: dict[int, list[Match]] = {}
    for one in conditions:
        by_attribute.setdefault(one.attribute, []).extend(one.one_of)
    own = by_attribute.pop(attribute, [])
    found: list[Template] = [ABSENT, *({attribute: value} for value in values(attribute, own))]
    for teller, matches in by_attribute.items():
        found += _telling(teller, matches, own)
    return tuple(found)


def values(attribute: int, matches: Sequence[Match]) -> tuple[Value, ...]:
    """One value for each cell. Raises Undecidable."""
    if attribute in TRUTH_VALUES:
        return (True, False)
    if attribute in NUMBERS or attribute in NAMED:
        return tuple(_numbers(matches, NAMED.get(attribute, {})))
    return tuple(_texts(matches))


def _numbers(matches: Sequence[Match], names: Mapping[str, int]) -> Iterator[int]:
    """One number of each segment that no constant divides; one that has a name, where there is one."""
    starts = {0, _MOST + 1}
    for match in matches:
        match match:
            case Is(int() as value):
                starts |= {value, value + 1}
            case Between(least, most):
                starts |= ({least} if least is not None else set()) | (
                    {most + 1} if most is not None else set()
                )
    divided = sorted(start for start in starts if start <= _MOST + 1)
    named = sorted(names.values())
    for start, end in pairwise(divided):
        yield next((number for number in named if start <= number < end), start)


def _texts(matches: Sequence[Match]) -> Iterator[bytes]:
    """Each constant, and a text for each set of patterns that others can fit."""
    constants = dict.fromkeys(match.value for match in matches if isinstance(match, Is))
    literals = [one for one in constants if isinstance(one, bytes)]
    yield from literals
    patterns = [match.pattern for match in matches if isinstance(match, Like)]
    # What is no UTF-8 is met by what is made here only where a wildcard meets it, which meets others just so.
    plain = [one.decode() for one in literals if _is_text(one)]
    known = set(literals)
    for text in representatives(tuple(dict.fromkeys(patterns)), tuple(plain)):
        data = text.encode()
        if data not in known:
            yield data


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _telling(teller: int, matches: Sequence[Match], sizes: Sequence[Match]) -> Iterator[Template]:
    """Long numbers, by themselves and by the sizes that they tell. Raises Undecidable for patterns of them."""
    if any(isinstance(match, Like) for match in matches):
        raise Undecidable(
            "a pattern for a long number, beside a condition on its size: give the number, or the size"
        )
    constants = [match.value for match in matches if isinstance(match, Is) and isinstance(match.value, bytes)]
    for constant in constants:
        yield {teller: constant}
    for size in _numbers(sizes, {}):
        if size <= _LONGEST:
            yield {teller: _number_of(size, constants)}


def _number_of(bits: int, others: Sequence[bytes]) -> bytes:
    """A number of so many bits that is none of the others."""
    data = ((1 << bits) >> 1).to_bytes((bits + 7) // 8 or 1)
    while data in others:
        data = b"\0" + data  # the same size
    return data
