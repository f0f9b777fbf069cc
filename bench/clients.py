"""The client processes: client.c compiled, started on a peer, told what to measure.

A crowd is several clients on one peer that measure at the same time. They are started one after another: SoftHSM
rewrites its token's file at a login, and processes that do so at once fail (pkcs11-rpc, section 12).
"""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from bench.peers import Peer

_SOURCE: Final = Path(__file__).with_name("client.c")
_FLAGS: Final = ("-O2", "-Wall", "-Wextra", "-Werror", "-I/usr/include/p11-kit-1")


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one operation: operations per second, and the median and 99th percentile in microseconds."""

    per_second: float
    p50: float
    p99: float
    count: int


def compile_client(directory: Path) -> Path:
    """The client's binary, made in `directory`. Raises SystemExit with what the compiler says."""
    binary = directory / "client"
    command = [compiler(), *_FLAGS, str(_SOURCE), "-o", str(binary), "-pthread", "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"client.c does not compile: {done.stderr.strip()}")
    return binary


def compiler() -> str:
    """The C compiler. Raises SystemExit where there is none."""
    found = shutil.which("cc")
    if found is None:
        raise SystemExit("no C compiler `cc` on this machine: install `gcc` and `libc6-dev`")
    return found


def prepare(binary: Path, peer: Peer, label: str, count: int) -> None:
    """Make the keys and `count` small objects in a token. Raises SystemExit with the call that failed."""
    done = subprocess.run(
        [str(binary), "prepare", str(peer.library), label, str(count)],
        env=dict(peer.environment),
        input=f"{peer.pin}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{peer.name}, token {label}: {done.stdout.strip() or done.stderr.strip()}")


class Client:
    """One client process that is ready to measure. Raises SystemExit with the call that failed, whenever one does."""

    def __init__(self, binary: Path, peer: Peer, number: int) -> None:
        self._peer = peer
        words = (peer.keys, peer.objects, peer.logins[number % len(peer.logins)])
        self._process = subprocess.Popen(
            [str(binary), "serve", str(peer.library), *words],
            env=dict(peer.environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self._say(peer.pin)
            self._answer()
        except BaseException:
            self.close()
            raise

    def begin(self, operation: str, seconds: float, threads: int) -> None:
        """Have it measure."""
        self._say(f"{operation} {seconds} {threads}")

    def end(self) -> Sample:
        """What it measured."""
        return Sample(**json.loads(self._answer()))

    def close(self) -> None:
        """End it, as an application ends."""
        self._process.communicate()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def _answer(self) -> str:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        line = self._process.stdout.readline()
        if not line.startswith("{"):
            raise SystemExit(f"a client of {self._peer.name} ended: {line.strip() or self._process.wait()}")
        return line


class Crowd:
    """Clients of one peer that measure at the same time."""

    def __init__(self, clients: Sequence[Client], threads: int = 1) -> None:
        self._clients = clients
        self._threads = threads

    def measure(self, operation: str, seconds: float) -> Sample:
        """One round: operations per second summed up, percentiles the median over the clients."""
        for client in self._clients:
            client.begin(operation, seconds, self._threads)
        return combined([client.end() for client in self._clients])


def combined(samples: Sequence[Sample]) -> Sample:
    """What clients measured at the same time, as one sample."""
    return Sample(
        per_second=sum(sample.per_second for sample in samples),
        p50=statistics.median(sample.p50 for sample in samples),
        p99=statistics.median(sample.p99 for sample in samples),
        count=sum(sample.count for sample in samples),
    )


@contextlib.contextmanager
def crowd(binary: Path, peer: Peer, clients: int = 1, threads: int = 1) -> Iterator[Crowd]:
    """So many client processes on a peer, started one after another, each with so many threads."""
    with contextlib.ExitStack() as stack:
        started = []
        for number in range(clients):
            client = Client(binary, peer, number)
            stack.callback(client.close)
            started.append(client)
        yield Crowd(started, threads)


def as_json(sample: Sample) -> dict[str, float]:
    """A sample as the JSON file has it."""
    return asdict(sample)
