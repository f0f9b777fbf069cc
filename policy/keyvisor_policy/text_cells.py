"""Texts by what patterns make of them: for each set of patterns that one text can fit at once, the shortest such text.

Patterns are those of `Like`, and literal texts are patterns without wildcards. A pattern looks at a character only to
compare it with those that it names, so that one further character stands for all that none names. The automaton that runs
all patterns at once then has finitely many states, and each state that it reaches is a cell. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Final

from keyvisor_policy.errors import Undecidable

MOST_STATES: Final = 20_000
_UNNAMED: Final = "xyz0123456789abcdefghijklmnopqrstuvw"

_Places = frozenset[tuple[int, int]]
"""Of each pattern that a text may still fit its number, and the places before the characters that may come next."""


class _Automaton:
    """Patterns, each a list of characters; in those of `wild` ones `*` may be left out, and left again and again."""

    def __init__(self, patterns: Sequence[str], literals: Sequence[str]) -> None:
        self._texts = (*patterns, *literals)
        self._wild = len(patterns)

    def start(self) -> _Places:
        return frozenset(self._onward((number, 0) for number in range(len(self._texts))))

    def step(self, places: _Places, character: str) -> _Places:
        return frozenset(self._onward(self._next(places, character)))

    def fitting(self, places: _Places) -> frozenset[int]:
        """The numbers of the patterns that a text fits which ends here."""
        return frozenset(number for number, place in places if place == len(self._texts[number]))

    def _next(self, places: _Places, character: str) -> Iterator[tuple[int, int]]:
        for number, place in places:
            text = self._texts[number]
            if place == len(text):
                continue
            wanted, wild = text[place], number < self._wild
            if wild and wanted == "*":
                yield number, place
            elif wanted == character or (wild and wanted == "?"):
                yield number, place + 1

    def _onward(self, places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        for number, place in places:
            text = self._texts[number]
            yield number, place
            while number < self._wild and place < len(text) and text[place] == "*":
                place += 1
                yield number, place


@lru_cache(maxsize=256)
def representatives(patterns: tuple[str, ...], literals: tuple[str, ...]) -> tuple[str, ...]:
    """One text for each set of `patterns` and `literals` that a text can fit at once, the shorter first.

    Raises Undecidable where there are too many ways for texts to go on.
    """
    automaton, alphabet = _Automaton(patterns, literals), _alphabet(patterns, literals)
    start = automaton.start()
    shortest = {start: ""}
    cells: dict[frozenset[int], str] = {}
    waiting = [start]
    for state in waiting:
        cells.setdefault(automaton.fitting(state), shortest[state])
        for character in alphabet:
            then = automaton.step(state, character)
            if then not in shortest:
                if len(shortest) == MOST_STATES:
                    raise Undecidable(
                        f"more than {MOST_STATES:,} ways for a text to meet or miss these patterns:"
                        f" {_some(patterns)}; name fewer, or begin them with a text instead of `*`"
                    )
                shortest[then] = shortest[state] + character
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
