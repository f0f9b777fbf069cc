"""The command `keyvisor`: finds its verbs, loads the one that is called, and says what went wrong.

The verbs are the distribution's entry points of the group `keyvisor.verbs`, so that the firmware's are offered
without its being imported. Knows no verb's inside.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, EntryPoints, PackageNotFoundError, distribution
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup
from typer.main import get_command

from keyvisor_guest.errors import CommandUnusable
from keyvisor_policy.terminal import printable

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter

__all__ = ["main"]

GROUP = "keyvisor.verbs"

# What `keyvisor --help` says of each verb, in this order: so that nothing has to be loaded to say it.
SUMMARIES = {
    "up": "run the firmware: its cards, its doors, its guests",
    "demo": "see all of it once, start to end, in a state of its own",
    "doctor": "look for what is missing on this machine",
    "host": "start and stop guests, give them storage and HSMs",
    "guest": "a guest's own side: secrets, association, policy; run programs in it",
    "owner": "make what a guest's owner makes, away from the machine",
    "image": "secure containers: build them, look into them, move them",
    "policy": "check, try and explain policies, without a firmware",
    "hsm": "look at the emulated cards",
    "audit": "read what the firmware has recorded",
}


class VerbGroup(TyperGroup):
    """A group whose commands are entry points, each loaded when it is called and not before."""

    def list_commands(self, ctx: Context) -> list[str]:
        """Every verb of the distribution: those with a summary first, in its order."""
        names = _entry_points().names
        return [*(name for name in SUMMARIES if name in names), *sorted(names - SUMMARIES.keys())]

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        """Load the verb. Raises CommandUnusable where a part of it is not installed; None if there is no such verb."""
        found = _entry_points().select(name=cmd_name)
        return get_command(_load(next(iter(found)))) if found else None

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """The verbs with their summaries."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, SUMMARIES.get(name, "")) for name in self.list_commands(ctx)])


def _entry_points() -> EntryPoints:
    try:
        return distribution("keyvisor").entry_points.select(group=GROUP)
    except PackageNotFoundError:
        raise CommandUnusable(
            "the distribution `keyvisor` is not installed: `make setup` installs it"
        ) from None


def _load(verb: EntryPoint) -> typer.Typer:
    try:
        app = verb.load()
    except ModuleNotFoundError as error:
        wanted = "keyvisor[firmware]" if verb.module.startswith("keyvisor_firmware") else "keyvisor"
        raise CommandUnusable(f"`keyvisor {verb.name}` needs `{error.name}`: install `{wanted}`") from error
    if not isinstance(app, typer.Typer):
        raise TypeError(f"`{verb.value}` is not a typer.Typer")
    return app


app = typer.Typer(
    cls=VerbGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes 40 ms to load, and `guest exec` stands in the way of every program
)


def _version(asked: bool) -> None:
    if asked:
        print(f"keyvisor {distribution('keyvisor').version}")
        raise typer.Exit


@app.callback()
def keyvisor(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Rehearse confidential-computing key protection on an ordinary Linux machine.

    Ends with 0 when done, 1 when refused or failed, 2 when the command line is wrong.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, by default with the process's own arguments, and end the process with its exit code."""
    try:
        get_command(app).main(arguments, prog_name="keyvisor")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # what is not meant for people goes on, with its traceback
        lines = _told(error)
        if lines is None:
            raise
        for line in lines:
            print(f"error: {printable(line)}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))


def _told(error: Exception) -> list[str] | None:
    """The lines to print for an error that is meant for people: our packages' own, and the system's. Else None.

    Ours are known by where their class is defined: the firmware's verbs run here and this package must not import
    the firmware.
    """
    if any(cls.__module__.partition(".")[0].startswith("keyvisor_") for cls in type(error).__mro__):
        return str(error).splitlines() or [type(error).__name__]
    if isinstance(error, OSError) and error.strerror:
        where = f"`{os.fspath(error.filename)}`: " if isinstance(error.filename, str | os.PathLike) else ""
        return [f"{where}{error.strerror.lower()}"]
    return None
