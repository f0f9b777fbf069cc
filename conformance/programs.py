"""Running a program to its end: bounded in time, in a process group of its own, its output as text."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SECONDS: Final = 60.0
HUNG: Final = -1000  # instead of an exit code; signals are -1 to -64


@dataclass(frozen=True, slots=True)
class Ran:
    """What a program did: its exit code (a signal's number negated, HUNG for too long), and all that it printed.

    Standard error stands behind standard output: as they come, a line of one would cut through a line of the other.
    """

    code: int
    told: str


def run(
    words: Sequence[str | Path],
    environment: Mapping[str, str],
    directory: Path,
    *,
    seconds: float = SECONDS,
    given: str | None = None,
) -> Ran:
    """Run a program in `directory`; after `seconds` it and its children are killed. `given` is its standard input."""
    process = subprocess.Popen(
        [str(word) for word in words],
        cwd=directory,
        env=dict(environment),
        stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    hung = False
    try:
        output, errors = process.communicate(given, seconds)
    except subprocess.TimeoutExpired:
        hung = True
        _kill(process)
        output, errors = process.communicate()
    told = "\n".join(part for part in (output.rstrip("\n"), errors.rstrip("\n")) if part)
    return Ran(HUNG if hung else process.returncode, told)


@contextlib.contextmanager
def serving(
    words: Sequence[str | Path],
    environment: Mapping[str, str],
    log: Path,
    ready: str,
    directory: Path | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run a server until the block ends. Its output goes to `log`, except the line holding `ready`, which is awaited.

    Raises SystemExit with the log where the server ends before it says so; one that takes too long is ended.
    """
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [str(word) for word in words],
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        watchdog = threading.Timer(SECONDS, _kill, [process])
        watchdog.start()
        try:
            started = any(ready in line for line in process.stdout)
            watchdog.cancel()
            if not started:
                raise SystemExit(f"`{words[0]}` did not start: {log.read_text(encoding='utf-8').strip()}")
            yield process
        finally:
            watchdog.cancel()
            process.terminate()
            try:
                process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                _kill(process)
                process.communicate()


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without what would lead a client or a library elsewhere; with `more`."""
    led = ("KEYVISOR_", "P11_KIT_", "SOFTHSM2_", "PKCS11_", "OPENSSL_", "PYTEST_", "GNUTLS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(led)}
    return {**kept, "LC_ALL": "C.UTF-8", **more}


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
