"""A bar for each step of a long verb, on standard error, where that is a terminal. Nothing where it is not, or with `--json`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Tell", "bars"]

Tell = Callable[[str, int, int], None]  # what is done, how much of it, of how much


@contextmanager
def bars(*, quiet: bool) -> Iterator[Tell]:
    """`tell(what, done, all)`: one bar for each `what`, in the order of their first words."""
    if quiet or not sys.stderr.isatty():
        yield lambda _what, _done, _all: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(stderr=True)) as shown:

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = shown.add_task(what, total=max(total, 1))
            # A step of nothing is done at once.
            shown.update(tasks[what], completed=done if total else 1, total=max(total, 1))

        yield tell
