"""How every verb of the command talks: data as a table or as JSON, errors as one line and exit code 1.

It stands in this package because all others may import it. Knows nothing of what it prints, so nothing that it
prints can steer a terminal: names come from policies, from guests and from the firmware's other callers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

PIPED_WIDTH = 4096  # characters of a line that no terminal breaks: more than any row of ours


def verb(help_text: str, *, group: bool = False) -> typer.Typer:
    """The app of one verb. With `group` it has commands, and shows its help where none is given."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=group,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def fail(message: str) -> NoReturn:
    """Say `message` on standard error, each line behind `error: `, and end with exit code 1.

    One line, lower case, with the way out; more lines only where a program's own output is told.
    """
    for line in message.splitlines():
        print(f"error: {printable(line)}", file=sys.stderr)
    raise typer.Exit(1)


def printable(text: str) -> str:
    """`text` on one line: whatever could move a cursor, end a line or turn the direction of writing is escaped."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def print_json(value: object) -> None:
    """Print `value` as indented JSON on standard output, in ASCII: escaped as JSON has it."""
    print(json.dumps(value, indent=2))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str = "nothing to show"
) -> None:
    """Print rows under their column names; `empty` where there are none. Columns are never cut when piped."""
    if not rows:
        print(empty)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    Console(width=width).print(table, no_wrap=width is not None)
