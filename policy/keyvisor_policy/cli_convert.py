"""`keyvisor policy convert`: a pvapconfig list as a policy of this grammar, and where the two programs differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keyvisor_policy.cli_arguments import INVENTORY_HELP, Json, Secrets, held, loaded, refuse, there_are
from keyvisor_policy.terminal import fail, print_json

if TYPE_CHECKING:
    from keyvisor_policy.compat_differences import Difference


def convert(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A pvapconfig list.")
    ],
    inventory: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help=f"Say where pvapconfig-2.43 and keyvisor differ for these HSMs. {INVENTORY_HELP}",
        ),
    ] = None,
    secrets: Secrets = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", dir_okay=False, help="Write the policy there."),
    ] = None,
    force: Annotated[bool, typer.Option("-f", "--force", help="Replace a file that exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write a pvapconfig list in this grammar; with an inventory, say where the two programs differ.

    Without -o the policy is printed, and the differences are comments below it.

    Exit code 0: it is written, whatever differs. 1: a file is wrong. 2: wrong command line.
    """
    text = _converted(file)
    found = None if inventory is None else _differences(file, inventory, secrets)
    if output is not None:
        _write(text, output, force=force)
    if as_json:
        print_json({"policy": text, "differences": None if found is None else list(map(_value, found))})
        return
    if output is None:
        print(text, end="")
    for line in [] if found is None else _told(found):
        print(line if output is not None else f"# {line}")


def _converted(file: Path) -> str:
    from keyvisor_policy.convert import converted
    from keyvisor_policy.errors import DocumentError
    from keyvisor_policy.strict_yaml import read_file

    try:
        return converted(read_file(file), str(file))
    except DocumentError as error:
        refuse(error)
    except ValueError as error:
        fail(f"{file}: {error}")


def _differences(file: Path, inventory: Path, secrets: list[str] | None) -> tuple[Difference, ...]:
    from keyvisor_policy.compat_differences import differences

    (policy,) = loaded(file)
    there = there_are(inventory)
    return differences(policy, there.hsms, held([policy], secrets), there.current)


def _told(found: tuple[Difference, ...]) -> list[str]:
    from keyvisor_policy.compat import PVAPCONFIG

    if not found:
        return [f"{PVAPCONFIG} and keyvisor do the same with these HSMs"]
    return [f"{difference} [{difference.code}]" for difference in found]


def _value(difference: Difference) -> dict[str, Any]:
    return {
        "code": difference.code,
        "entry": difference.entry,
        "apqn": difference.apqn,
        "message": difference.message,
    }


def _write(text: str, output: Path, *, force: bool) -> None:
    try:
        with output.open("w" if force else "x", encoding="utf-8") as written:
            written.write(text)
    except FileExistsError:
        fail(f"{output} is there already; `--force` replaces it")
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror}")
