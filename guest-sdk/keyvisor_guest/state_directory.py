"""Where the state and the doors are: paths, and the two limits that a path can break.

Knows the layout of the state directory (architecture, section 6) and makes none of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from keyvisor_guest.errors import StateDirectoryUnusable
from keyvisor_guest.names import guest_name

STATE_VARIABLE = "KEYVISOR_STATE"

MAX_SOCKET_PATH = 107  # bytes: sun_path has 108 and the kernel wants room for a NUL (unix(7))


def state_directory(
    option: Path | None = None, environ: Mapping[str, str] = os.environ, *, uid: int | None = None
) -> Path:
    """The state directory, absolute: `option`, else KEYVISOR_STATE, else the user's own default.

    The default is `/var/lib/keyvisor` for root and `$XDG_STATE_HOME/keyvisor` for everybody else, with
    `~/.local/state` where XDG_STATE_HOME is unset or not absolute. `uid` is the effective user's if left out.
    Raises StateDirectoryUnusable where none of these is known.
    """
    given = option if option is not None else environ.get(STATE_VARIABLE)
    if given:
        return Path(given).absolute()
    if (os.geteuid() if uid is None else uid) == 0:
        return Path("/var/lib/keyvisor")
    return _user_state(environ) / "keyvisor"


def _user_state(environ: Mapping[str, str]) -> Path:
    state = Path(environ.get("XDG_STATE_HOME", ""))
    if state.is_absolute():  # the XDG base directory specification has relative ones ignored
        return state
    home = environ.get("HOME")
    if not home:
        raise StateDirectoryUnusable(f"no HOME to keep the state in: give --state DIR or {STATE_VARIABLE}")
    return Path(home).absolute() / ".local" / "state"


def run_directory(state: Path) -> Path:
    """Where the doors are."""
    return state / "run"


def host_socket(state: Path) -> Path:
    """The host's door. Raises StateDirectoryUnusable where the path is too long."""
    return _door(run_directory(state) / "host.sock")


def operator_socket(state: Path) -> Path:
    """The operator's door. Raises StateDirectoryUnusable where the path is too long."""
    return _door(run_directory(state) / "operator.sock")


def guest_directory(state: Path, name: str) -> Path:
    """Where one guest's doors are. Raises NameInvalid: a name never leads out of the directory."""
    return run_directory(state) / "guests" / guest_name(name)


def closed_mark(state: Path, name: str) -> Path:
    """The file that is there as long as a guest is not open yet. Raises NameInvalid."""
    return guest_directory(state, name) / "closed"


def guest_socket(state: Path, name: str) -> Path:
    """A guest's door to the firmware. Raises NameInvalid, StateDirectoryUnusable."""
    return _door(guest_directory(state, name) / "guest.sock")


def pkcs11_socket(state: Path, name: str) -> Path:
    """A guest's door for PKCS#11. Raises NameInvalid, StateDirectoryUnusable."""
    return _door(guest_directory(state, name) / "pkcs11.sock")


def _door(path: Path) -> Path:
    """`path` if a Unix socket can have it. The stock client would cut a longer one silently (pkcs11-rpc, section 10)."""
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise StateDirectoryUnusable(
            f"`{path}` has {length} bytes and a Unix socket's path at most {MAX_SOCKET_PATH}: "
            f"choose a shorter --state (or {STATE_VARIABLE})"
        )
    return path
