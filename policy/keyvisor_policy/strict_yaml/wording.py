"""How findings speak of what stands in a file: quoted, cut, and with the nearest right word.

Whatever comes from a file is hostile: it reaches a terminal or a log only through `escaped`.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

SHOWN_CHARACTERS = 80
NEAREST_CHARACTERS = 64  # difflib is quadratic, so longer words have no nearest one
LIKELIEST = 16  # of more words only those are compared that share most pieces


def escaped(text: str) -> str:
    """`text` on one line: what cannot be printed is escaped, what is long is cut."""
    cut = text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
    return "".join(map(_printable, cut))


def shown(text: str) -> str:
    """`text` in backticks, escaped and cut."""
    return f"`{escaped(text)}`"


def described(value: object) -> str:
    """A value of a document in a reader's words."""
    if isinstance(value, str):
        return shown(value) if value else "an empty text"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, Sequence):
        return "a list"
    return "nothing" if value is None else shown(str(value))


def listed(words: Iterable[str]) -> str:
    """The words in backticks, with commas and a last `or`."""
    quoted = [f"`{word}`" for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that somebody who wrote `word` most likely meant, if there is one."""
    if len(word) > NEAREST_CHARACTERS:
        return None
    by_lower, pieces = _by_pieces(tuple(words))
    likely: Iterable[str] = by_lower
    if len(by_lower) > LIKELIEST:
        shared = Counter(one for piece in _pieces(word.lower()) for one in pieces.get(piece, ()))
        likely = [one for one, _ in shared.most_common(LIKELIEST)]
    found = difflib.get_close_matches(word.lower(), likely, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


@lru_cache(maxsize=32)
def _by_pieces(words: tuple[str, ...]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The words by themselves in lower case, and by the pieces that are in them: a file may misspell thousands."""
    by_lower = {word.lower(): word for word in words}
    pieces: dict[str, list[str]] = {}
    for word in by_lower:
        for piece in set(_pieces(word)):
            pieces.setdefault(piece, []).append(word)
    return by_lower, pieces


def _pieces(word: str) -> list[str]:
    return [word[at : at + 3] for at in range(len(word) - 2)]


def expected_words(found: str, words: Sequence[str]) -> str:
    """What was expected where `found` stands, and the nearest right word."""
    meant = nearest(found, words)
    hint = f"; did you mean `{meant}`?" if meant else ""
    return f"expected {listed(words)}, found {described(found)}{hint}"


def _printable(character: str) -> str:
    if character.isprintable() and character != "`":
        return character
    return "\\x60" if character == "`" else character.encode("unicode_escape").decode("ascii")
