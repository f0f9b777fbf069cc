"""Of which release the stock client is, and what it loses: a client drops mechanisms that it cannot carry, without a word.

Knows the client's library and the table of its releases; neither an HSM nor the firmware.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from keyvisor_guest.stock_client import ADDRESS_VARIABLE, address
from keyvisor_guest.wire.client_releases import RELEASES, carried_by, since

__all__ = ["UNKNOWN", "carries", "release", "verdict"]

UNKNOWN = "unknown"

# The first byte that a client sends is the newest version of the protocol that it speaks (pkcs11-rpc, sections 1 and 7).
_RELEASES = dict(enumerate(RELEASES))
_PATIENCE = 10.0  # seconds
# Initialises a module as any application does, and does not care how that ends.
_KNOCK = """\
import ctypes, sys
functions = ctypes.c_void_p()
if ctypes.CDLL(sys.argv[1]).C_GetFunctionList(ctypes.byref(functions)) == 0:
    initialize = ctypes.c_void_p.from_address(functions.value + 8).value
    ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)(initialize)(None)
"""


def release(library: Path) -> str:
    """Which of `client_releases.RELEASES` the client at `library` is of, or UNKNOWN.

    The library has no version in it, and distributions number their packages as they like, so the client itself is
    asked: a process of its own loads it and knocks at a door of ours. The first byte that comes tells the releases
    apart, and it is what the gate goes by too. Ends within seconds whatever the library is. Raises OSError.
    """
    with (
        tempfile.TemporaryDirectory(
            prefix="keyvisor-", dir="/tmp"
        ) as directory,  # a socket's path must be short
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door,
    ):
        path = Path(directory) / "door"
        door.bind(str(path))
        door.listen(1)
        first = _first_byte(door, library, {**os.environ, ADDRESS_VARIABLE: address(path)})
    return UNKNOWN if first is None else _RELEASES.get(first, UNKNOWN)


def carries(mechanism: int, installed: str) -> bool | None:
    """Whether a client of release `installed` lets a CK_MECHANISM_TYPE through; None where that release is UNKNOWN."""
    return None if installed == UNKNOWN else installed in carried_by(mechanism)


def verdict(mechanism: int, installed: str) -> str:
    """The same in words, with the release that carries it where this one does not."""
    carried, first = carries(mechanism, installed), since(mechanism)
    if carried:
        return "yes"
    later = "no release does" if first is None else f"since {first}"
    return f"{'no' if carried is False else UNKNOWN}: {later}"


def _first_byte(door: socket.socket, library: Path, environ: Mapping[str, str]) -> int | None:
    """What the client sends first; None where it sends nothing, or is no client."""
    command = [sys.executable, "-I", "-c", _KNOCK, str(library)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=environ, stdin=quiet, stdout=quiet, stderr=quiet) as client:
        try:
            if not _knocks(door, client):
                return None
            channel, _ = door.accept()
            with channel:
                channel.settimeout(_PATIENCE)
                return next(iter(channel.recv(1)), None)
        except OSError:
            return None
        finally:
            client.kill()


def _knocks(door: socket.socket, client: subprocess.Popen[bytes]) -> bool:
    """Wait until the client is at the door, has ended, or took too long."""
    ended = os.pidfd_open(client.pid)
    try:
        poll = select.poll()
        poll.register(door, select.POLLIN)
        poll.register(ended, select.POLLIN)
        return door.fileno() in dict(poll.poll(_PATIENCE * 1000))
    finally:
        os.close(ended)
