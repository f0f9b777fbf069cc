"""`python -m bench.bench`: measure, print the tables, write docs/performance.md."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench import containers, filter_cost, growth, guests, memory, policies, side_by_side, storage
from bench.clients import compile_client
from bench.machine import machine
from bench.processes import allow_descriptors
from bench.report import page, printed, updated
from bench.run import FULL, QUICK, Figures, Run, Size
from keyvisor_firmware.errors import ConfigInvalid
from keyvisor_guest import SdkError

_PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
_WIDTH: Final = 170  # of the tables, where the terminal does not say how wide it is

SECTIONS: Final[dict[str, Callable[[Run], Figures]]] = {
    "requests": side_by_side.measure,
    "filter": filter_cost.measure,
    "growth": growth.measure,
    "memory": memory.measure,
    "guests": guests.measure,
    "storage": storage.measure,
    "policy": policies.measure,
    "containers": containers.measure,
}


def main() -> int:
    """Run the benchmark; the exit code."""
    options = _options(sys.argv[1:])
    size = QUICK if options.quick else FULL
    allow_descriptors()
    try:
        figures = _measure(options.only, size)
    except (SdkError, ConfigInvalid) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    for table in printed(figures):
        console.print(table)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if not options.quick and set(options.only) == set(SECTIONS):
        _PAGE.write_text(page(figures), encoding="utf-8")
        console.print("docs/performance.md is written")
    elif options.update:
        _PAGE.write_text(updated(_PAGE.read_text(encoding="utf-8"), figures), encoding="utf-8")
        console.print(f"{', '.join(options.only)} of docs/performance.md is written")
    return 0


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Measure the broker beside its peers.")
    parser.add_argument(
        "--quick", action="store_true", help="a short run, to see that it works; writes no page"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure into a file")
    parser.add_argument(
        "--only",
        type=_sections,
        default=list(SECTIONS),
        metavar="SECTIONS",
        help=f"some of {','.join(SECTIONS)}; writes no page without --update",
    )
    parser.add_argument(
        "--update", action="store_true", help="with --only: write these sections into the page that is there"
    )
    return parser.parse_args(words)


def _sections(text: str) -> list[str]:
    named = text.split(",")
    if unknown := [name for name in named if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"no section `{unknown[0]}`: choose from {','.join(SECTIONS)}")
    return named


def _measure(sections: Sequence[str], size: Size) -> Figures:
    figures: Figures = {"machine": machine(), "method": asdict(size)}
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kv-")))
        columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        progress = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
        task = progress.add_task("compiling the client", total=None)

        def say(text: str) -> None:
            progress.update(task, description=text)

        run = Run(size, directory, compile_client(directory), say)
        for name in sections:
            figures[name] = SECTIONS[name](run)
    return figures


if __name__ == "__main__":
    sys.exit(main())
