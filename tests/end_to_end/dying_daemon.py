"""A daemon that dies by SIGKILL at one point of applying a plan: `python dying_daemon.py STATE NUMBER POINTS [HOW...]`.

NUMBER counts the points from 0; each that is passed is a line in the file POINTS. HOW `gates`: its gates are killed
before it; without, they are left to notice. HOW `twin`: it is a broken one, whose database commits every statement.
For tests only: the installed daemon has no such entry.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from keyvisor_firmware import daemon
from keyvisor_firmware.config import Config
from keyvisor_firmware.state import database

_OF = "apply plan: "


def _children() -> list[int]:
    """The processes that this one started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        if parent == os.getpid():
            found.append(int(entry.name))
    return found


def main(state: str, number: str, points: str, *how: str) -> None:
    left = int(number)
    if "twin" in how:
        database._begin = lambda _connection: None

    def at(point: str) -> None:
        nonlocal left
        if not point.startswith(_OF):
            return
        with Path(points).open("a", encoding="utf-8") as file:
            file.write(point.removeprefix(_OF) + "\n")
        if left == 0:
            for child in _children() if "gates" in how else ():
                os.kill(child, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    daemon.run(Path(state), Config(), at)


if __name__ == "__main__":
    main(*sys.argv[1:])
