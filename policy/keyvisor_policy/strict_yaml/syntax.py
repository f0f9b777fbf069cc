"""What PyYAML's complaints mean to the person who wrote the file. Data, and one look-up."""

from __future__ import annotations

import re

from yaml.error import MarkedYAMLError

# (pattern over PyYAML's context and problem, what to say). The first that is found counts.
_COMPLAINTS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"found character '\\t'"), "a tab where a space must be; indent with spaces"),
    (
        re.compile(r"found character '(.)' that cannot start"),
        r"`\1` cannot begin a value; put the value in quotes",
    ),
    (
        re.compile(r"scanning a block scalar.*(?:indicator|expected a comment)", re.DOTALL),
        'a value that begins with `>` or `|` must stand in quotes, as in `">=CEX8"`',
    ),
    (re.compile(r"mapping values are not allowed"), "a `:` that belongs to no key; put the value in quotes"),
    (re.compile(r"could not find expected ':'"), "a `:` is missing after the key that begins before here"),
    (re.compile(r"quoted scalar.*unexpected", re.DOTALL), "a quote is not closed"),
    (
        re.compile(r"double-quoted scalar.*unknown escape", re.DOTALL),
        r"an unknown escape; write `\\\\` for a backslash",
    ),
    (re.compile(r"double-quoted scalar", re.DOTALL), "an escape that is cut off or not hexadecimal"),
    (re.compile(r"expected <block end>"), "this line is not indented like those it belongs to"),
    (re.compile(r"expected ',' or '([]}])'"), r"expected `,` or the closing `\1`"),
    (
        re.compile(r"anchor|alias"),
        "the name of an anchor or alias is missing or has characters it may not have",
    ),
    (re.compile(r"tag"), "tags (`!`) are not supported; put a value that begins with `!` in quotes"),
    (
        re.compile(r"directive"),
        "directives (`%`) are not supported; put a value that begins with `%` in quotes",
    ),
)


def reworded(error: MarkedYAMLError) -> str:
    """What is wrong, in plain words and one line."""
    complaint = f"{error.context or ''} {error.problem or ''}"
    for pattern, words in _COMPLAINTS:
        match = pattern.search(complaint)
        if match is not None:
            return match.expand(words)
    return f"not YAML: {' '.join((error.problem or 'cannot be read').split())}"
