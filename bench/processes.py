"""What /proc says of processes: which are whose children, and how much memory is theirs."""

from __future__ import annotations

import contextlib
import os
import re
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


def children(parent: int) -> Iterator[tuple[int, list[bytes]]]:
    """The process ids of a process's children, and their command lines."""
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent:
                yield int(entry.name), (entry / "cmdline").read_bytes().split(b"\0")


def pss_mib(pids: Iterable[int]) -> float:
    """The proportional set size of processes together, MiB: pages that n processes share count one n-th each."""
    return sum(pss_kib((_PROC / str(pid) / "smaps_rollup").read_text()) for pid in pids) / 1024


def pss_kib(smaps_rollup: str) -> int:
    """The line `Pss:` of a smaps_rollup (proc(5)). Raises ValueError where there is none."""
    found = re.search(r"^Pss:\s+([0-9]+) kB$", smaps_rollup, re.MULTILINE)
    if found is None:
        raise ValueError("no line `Pss:`")
    return int(found[1])


def processor_seconds(pid: int) -> float:
    """How long processors have worked for a process: user and system time (proc(5), stat, fields 14 and 15)."""
    return ticks((_PROC / str(pid) / "stat").read_text()) / os.sysconf("SC_CLK_TCK")


def ticks(stat: str) -> int:
    """User and system time of a stat (proc(5)), whose second field may hold anything in brackets."""
    fields = stat.rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def allow_descriptors() -> None:
    """As many open files as this process may have: a thousand connections are a thousand of them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))
