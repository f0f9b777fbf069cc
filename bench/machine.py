"""What the figures were measured on: the machine without its name, and the releases of the programs that take part."""

from __future__ import annotations

import datetime
import platform
import re
import subprocess
from pathlib import Path
from typing import Final

from bench.processes import cores

_PACKAGES: Final = {"softhsm2": "SoftHSM", "p11-kit": "p11-kit server", "p11-kit-modules": "p11-kit's client"}


def machine() -> dict[str, str]:
    """Name and value of everything that a reader wants to know of the machine, in the order of the page."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": processor(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
        "cores": str(cores()),
        "kernel": platform.release().partition("-")[0],  # what follows is the builder's
        "Python": platform.python_version(),
        **{name: _release(package) for package, name in _PACKAGES.items()},
    }


def processor(cpuinfo: str) -> str:
    """The processor's model as /proc/cpuinfo has it."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1] if found else platform.machine()


def _release(package: str) -> str:
    query = ["dpkg-query", "-W", "-f", "${Version}", package]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout or "not from a package"
