"""`keyvisor guest exec` and `env`: a program's way to one guest's PKCS#11 door.

Stands in the way of every program that it runs, so it imports nothing that it can do without: no HTTP, no pydantic.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from keyvisor_guest.cli.sandbox import name_module, sandboxed
from keyvisor_guest.errors import CommandUnusable, NotOpen, NotRunning
from keyvisor_guest.names import GUEST_VARIABLE
from keyvisor_guest.state_directory import STATE_VARIABLE, closed_mark, guest_directory, pkcs11_socket
from keyvisor_guest.stock_client import ADDRESS_VARIABLE, MODULE_VARIABLE, address, find

__all__ = ["Surroundings", "open_door", "run"]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a program needs to reach one guest: the state directory (absolute), the guest, the stock client."""

    state: Path
    guest: str
    module: Path

    @classmethod
    def of(cls, state: Path, guest: str, *, not_open_yet: bool = False) -> Surroundings:
        """Raises NameInvalid, StateDirectoryUnusable, ClientUnusable; NotRunning without a door, NotOpen.

        With `not_open_yet` for a program that is run once the guest is open.
        """
        open_door(state, guest, not_open_yet=not_open_yet)
        return cls(state, guest, find())

    def variables(self) -> dict[str, str]:
        """The environment variables that lead a program to the guest."""
        return {
            ADDRESS_VARIABLE: address(pkcs11_socket(self.state, self.guest)),
            GUEST_VARIABLE: self.guest,
            STATE_VARIABLE: str(self.state),
            MODULE_VARIABLE: str(self.module),
        }

    def exports(self) -> str:
        """The same as lines for a shell's `eval`."""
        return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self.variables().items())


def open_door(state: Path, guest: str, *, not_open_yet: bool = False) -> Path:
    """A guest's PKCS#11 door. Raises NameInvalid, StateDirectoryUnusable; NotRunning without a door, NotOpen."""
    door = pkcs11_socket(state, guest)
    if not door.is_socket():
        raise NotRunning(
            f"no guest `{guest}` in `{state}`: `keyvisor host list` shows those there are, "
            "`keyvisor up` starts the firmware"
        )
    if not not_open_yet and closed_mark(state, guest).exists():
        raise NotOpen(
            f"guest `{guest}` is not open before its secret store is locked: "
            "`keyvisor guest personalize`, or `keyvisor guest secret lock`, does that"
        )
    return door


def run(command: Sequence[str], at: Surroundings, environ: Mapping[str, str], *, sandbox: bool) -> NoReturn:
    """Become `command`, with `environ` and the variables of `at`. Raises CommandUnusable, with 126 or 127 as exit code."""
    environment = {**environ, **at.variables()}
    arguments = name_module(command, at.module)
    _check(arguments[0], environment)
    if sandbox:
        _check("bwrap", environment, "install the package `bubblewrap`")
        arguments = sandboxed(
            arguments,
            state=at.state,
            doors=guest_directory(at.state, at.guest),
            module=at.module,
            directory=Path.cwd(),
        )
    try:
        os.execvpe(arguments[0], arguments, environment)  # noqa: S606  # no shell is wanted: exit code and signals are CMD's
    except OSError as error:
        raise CommandUnusable(
            f"cannot run `{arguments[0]}`: {(error.strerror or str(error)).lower()}", 126
        ) from None


def _check(program: str, environ: Mapping[str, str], way_out: str = "is it installed, and in PATH?") -> None:
    """Raises CommandUnusable for a program that is not there (127) or may not be run (126), as the shells have it."""
    if shutil.which(program, path=environ.get("PATH")) is not None:
        return
    if os.sep in program and Path(program).exists():
        raise CommandUnusable(f"cannot run `{program}`: it is not executable", 126)
    raise CommandUnusable(f"no program `{program}`: {way_out}", 127)
