"""Texts by what patterns make of them: for each set of patterns that one text can fit at once, the shortest such text.

Patterns are those of `Like`, and literal texts are patterns without wildcards. A pattern looks at a character only to
compare it with those that it names, so that one further character stands for all that none names. The automaton that runs
all patterns at once then has finitely many states, and each state that it reaches is a cell. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from keyvisor_policy.errors import Undecidable

MOST_STATES: Final = 20_000
_UNNAMED: Final = "xyz0123456789abcdefghijklmnopqrstuvw"

_Places = frozenset[int]


@dataclass(frozen=True, slots=True)
class _Pattern:
    """Places before each character of a pattern; `*` may be left out, and left again and again."""

    text: str

    def start(self) -> _Places:
        return self._onward(frozenset({0}))

    def step(self, places: _Places, character: str) -> _Places:
        reached = set()
        for place in places:
            if place == len(self.text):
                continue
            if self.text[place] == "*":
                reached.add(place)
            elif self.text[place] in ("?", character):
                reached.add(place + 1)
        return self._onward(frozenset(reached))

    def fits(self, places: _Places) -> bool:
        return len(self.text) in places

    def _onward(self, places: _Places) -> _Places:
        found = set(places)
        for place in places:
            while place < len(self.text) and self.text[place] == "*":
                place += 1
                found.add(place)
        return frozenset(found)


@dataclass(frozen=True, slots=True)
class _Literal:
    """A text of its own: `*` in it is a character."""

    text: str

    def start(self) -> _Places:
        return frozenset({0})

    def step(self, places: _Places, character: str) -> _Places:
        return frozenset(
            place + 1 for place in places if place < len(self.text) and self.text[place] == character
        )

    def fits(self, places: _Places) -> bool:
        return len(self.text) in places


def representatives(patterns: Sequence[str], literals: Sequence[str]) -> tuple[str, ...]:
    """One text for each set of `patterns` and `literals` that a text can fit at once, the shorter first.

    Raises Undecidable where there are too many ways for texts to go on.
    """
    automata: list[_Pattern | _Literal] = [
        *map(_Pattern, dict.fromkeys(patterns)),
        *map(_Literal, dict.fromkeys(literals)),
    ]
    alphabet = _alphabet(patterns, literals)
    start = tuple(one.start() for one in automata)
    shortest = {start: ""}
    cells: dict[tuple[bool, ...], str] = {}
    waiting = [start]
    for state in waiting:
        text = shortest[state]
        cells.setdefault(tuple(one.fits(places) for one, places in zip(automata, state, strict=True)), text)
        for character in alphabet:
            then = tuple(one.step(places, character) for one, places in zip(automata, state, strict=True))
            if then not in shortest:
                if len(shortest) == MOST_STATES:
                    raise Undecidable(
                        f"more than {MOST_STATES:,} ways for a text to meet or miss these patterns:"
                        f" {_some(patterns)}; name fewer, or begin them with a text instead of `*`"
                    )
                shortest[then] = text + character
                waiting.append(then)
    return tuple(cells.values())


def _alphabet(patterns: Sequence[str], literals: Sequence[str]) -> tuple[str, ...]:
    """The characters that are named, and one that is not."""
    named = {*chain.from_iterable(literals)} | ({*chain.from_iterable(patterns)} - {"*", "?"})
    return (next(one for one in _candidates() if one not in named), *sorted(named))


def _candidates() -> Iterator[str]:
    """Characters that a person can read come first."""
    yield from _UNNAMED
    yield from map(chr, range(0xA1, 0xD800))


def _some(patterns: Sequence[str]) -> str:
    return ", ".join(f"`{one}`" for one in patterns[:3]) + (" ..." if len(patterns) > 3 else "")
