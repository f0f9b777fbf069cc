"""The sandbox around a container, as a bubblewrap command line. Pure: runs nothing, looks at no file.

A container has its own users, processes, mounts, names and no network. Of the machine it sees the processors and the
time; of the guest its PKCS#11 door. One user of the system's stands for the container's: bubblewrap maps one, so the
container's files belong to it, whoever owns them in the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keyvisor_guest.containers.running.process import Process
from keyvisor_guest.stock_client import ADDRESS_VARIABLE, MODULE_VARIABLE, address

__all__ = ["DOOR", "MOUNT_POINTS", "Door", "Sandboxed", "sandboxed"]

DOOR: Final = "/run/keyvisor/pkcs11.sock"  # where a container finds its guest's PKCS#11 door
MOUNT_POINTS: Final = (
    "proc",
    "dev",
    "tmp",
    "run/keyvisor",
)  # have to be directories of the root, and no links


@dataclass(frozen=True, slots=True)
class Door:
    """A guest's PKCS#11 door: its socket outside, and where the image has the stock client, if it has it."""

    socket: Path
    module: str | None = None


@dataclass(frozen=True, slots=True)
class Sandboxed:
    """What to execute. `options` go through a file descriptor, NUL-terminated each (`--args`): no other process reads them."""

    options: tuple[str, ...]
    arguments: tuple[str, ...]

    def passed(self) -> bytes:
        """The options as bubblewrap reads them."""
        return b"".join(one.encode("utf-8", "surrogateescape") + b"\0" for one in self.options)


def sandboxed(
    root: Path,
    process: Process,
    door: Door | None = None,
    *,
    network: bool = False,
    host_name: str = "container",
) -> Sandboxed:
    """`process` in a sandbox on `root`, which has MOUNT_POINTS and is the container's to write to.

    Later mounts lie over earlier ones, so nothing of the root covers the door, /proc or /dev.
    """
    environment = dict(process.environment)
    if door is not None:
        environment[ADDRESS_VARIABLE] = address(Path(DOOR))
        if door.module is not None:
            environment[MODULE_VARIABLE] = door.module
    options = (
        "--unshare-all",
        "--unshare-user",  # --unshare-all only tries
        *(("--share-net",) if network else ()),
        *("--uid", str(process.uid), "--gid", str(process.gid)),
        *("--hostname", host_name),
        "--die-with-parent",
        "--new-session",  # no ioctl(TIOCSTI) into the caller's terminal
        *("--cap-drop", "ALL"),
        *("--bind", str(root), "/"),
        *("--proc", "/proc"),
        *("--dev", "/dev"),
        *("--perms", "1777", "--tmpfs", "/tmp"),  # noqa: S108  # a mount point in the sandbox, not a file
        *("--tmpfs", str(Path(DOOR).parent)),
        *(() if door is None else ("--ro-bind", str(door.socket), DOOR)),  # to read is enough to connect
        *("--remount-ro", str(Path(DOOR).parent)),
        "--clearenv",
        *(word for name, value in environment.items() for word in ("--setenv", name, value)),
        *("--chdir", process.directory),
    )
    return Sandboxed(options, process.arguments)
