"""`keyvisor host start`: a guest from an image, with how far it is while it starts and what it was given afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyvisor_guest.cli.options import JsonOption, StateOption, show
from keyvisor_guest.cli.sizes import parse_size, size_text

if TYPE_CHECKING:
    from keyvisor_guest.hosting.starting import Progress
    from keyvisor_guest.wire.storage_messages import Held


def start(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The guest.")],
    image: Annotated[
        Path,
        typer.Option(
            "--image",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="The image, as its owner built it with `keyvisor owner image build`.",
        ),
    ],
    memory: Annotated[
        int | None,
        typer.Option(
            "--memory",
            metavar="SIZE",
            parser=parse_size,
            help="The guest's storage, whole MiB, as in 256M; without it 256M, or more if the image needs it.",
            show_default=False,
        ),
    ] = None,
    cpus: Annotated[int, typer.Option("--cpus", metavar="N", min=1, help="The guest's CPUs.")] = 1,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a guest from an image: donate what it needs, load the image, have it verified, let it run.

    A start that fails is undone. Ends with what was donated for the guest.
    """
    from keyvisor_guest.host import Host

    host = Host(state=state)
    with _shown() as progress:
        guest = host.start(name, image.read_bytes(), memory=memory, cpus=cpus, progress=progress)
    held = [line for line in host.storage().held if line.holder == guest.name]
    if not as_json:
        print(f"{guest.name} runs, CUID {guest.cuid}")
    show_held(
        {"guest": guest.model_dump(mode="json"), "held": [line.model_dump(mode="json") for line in held]},
        held,
        as_json=as_json,
    )


def show_held(value: dict[str, object], held: list[Held], *, as_json: bool) -> None:
    """Lines of the ledger, as a table; or `value` as JSON."""
    show(
        value,
        ("holder", "for", "secure", "size", "pieces", "first address"),
        [
            (
                line.holder,
                line.use,
                "yes" if line.secure else "no",
                size_text(line.length),
                str(line.pieces),
                f"{line.first:#x}",
            )
            for line in held
        ],
        as_json=as_json,
        empty="nobody holds anything",
    )


@contextmanager
def _shown() -> Iterator[Callable[[Progress], None] | None]:
    """Shows on standard error how far it is, where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("donating", total=None)
        yield lambda at: bar.update(task, description=at.stage, completed=at.done, total=at.total)
