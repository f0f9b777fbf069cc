"""`make bench`: the broker beside `p11-kit server` and beside SoftHSM in the client's own process, in one run.

One client process per peer; the peers take turns, round by round, so that the machine's moods meet all of them. The
table shows medians over the rounds; ratios are taken round by round.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from keyvisor_firmware.broker.gatekeeper import Gatekeepers
from keyvisor_hsm.cards import Apqn, ConfigurationData, Generation, Mode
from keyvisor_hsm.master_keys import OperatorToken

ROUNDS = 5
SECONDS = 0.3
_LABEL = "03.0011"
_PIN = "1234"  # of a token that lives as long as this run
_APQN = Apqn(0x03, 0x11)


def _found(*patterns: str) -> Path:
    return next(path for pattern in patterns for path in Path("/usr/lib").glob(pattern))


class Peer:
    """A client process on one of the peers."""

    def __init__(self, name: str, module: Path, environment: dict[str, str], pin: str | None) -> None:
        self.name = name
        command = [sys.executable, str(Path(__file__).with_name("client.py")), str(module), _LABEL]
        self._process = subprocess.Popen(
            command + ([pin] if pin else []),
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.operations: list[str] = self._answer()

    def measure(self, operation: str, seconds: float) -> dict[str, float]:
        """One round of one operation."""
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.write(f"{operation} {seconds}\n")
        self._process.stdin.flush()
        answer: dict[str, float] = self._answer()
        return answer

    def _answer(self) -> object:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the client of {self.name} ended")
        return json.loads(line)

    def close(self) -> None:
        """End the client."""
        self._process.communicate()


@contextlib.contextmanager
def _plain(directory: Path, softhsm: Path, client: Path) -> Iterator[tuple[Peer, Peer]]:
    """SoftHSM in the client's process, and behind `p11-kit server`; a token each, since they must not share one."""
    peers = []
    server: subprocess.Popen[bytes] | None = None
    for name in ("direct", "server"):
        tokens = directory / name
        tokens.mkdir()
        configuration = directory / f"{name}.conf"
        configuration.write_text(
            f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        environment = {"SOFTHSM2_CONF": str(configuration)}
        make = ["softhsm2-util", "--init-token", "--free", "--label", _LABEL, "--pin", _PIN, "--so-pin", _PIN]
        subprocess.run(make, env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL)
        if name == "direct":
            peers.append(Peer("SoftHSM in the process", softhsm, environment, _PIN))
            continue
        socket = directory / "server.sock"
        command = ["p11-kit", "server", "-f", "-n", str(socket), "--provider", str(softhsm), "pkcs11:"]
        server = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE)
        assert server.stdout is not None  # noqa: S101 - it is a pipe
        server.stdout.readline()  # it tells its address when it listens
        peers.append(Peer("p11-kit server", client, {"P11_KIT_SERVER_ADDRESS": f"unix:path={socket}"}, _PIN))
    try:
        yield peers[0], peers[1]
    finally:
        for peer in peers:
            peer.close()
        if server is not None:
            server.terminate()
            server.communicate()


@contextlib.contextmanager
def _keyvisor(directory: Path, softhsm: Path, client: Path) -> Iterator[Peer]:
    """A guest with an associated HSM, the whole filter on."""
    token = OperatorToken.open(directory / "operator", softhsm)
    token.ensure_master_key("bench")
    keepers = Gatekeepers(
        run_directory=directory / "run", partitions=directory / "partitions", module=softhsm
    )
    keeper = keepers.open("bench")
    data = ConfigurationData(
        _APQN, Generation.CEX8, Mode.EP11, "BENCH00000000000", None, (8, 0), 4, frozenset(), True
    )
    try:
        keeper.attach(data)
        keeper.bind(_APQN)
        keeper.associate(_APQN, token.partition_keys("bench", os.urandom(32)))
        peer = Peer("keyvisor", client, {"P11_KIT_SERVER_ADDRESS": f"unix:path={keeper.door}"}, None)
        yield peer
        peer.close()
    finally:
        keeper.stop()
        token.close()


def _ratio(a: list[dict[str, float]], b: list[dict[str, float]]) -> str:
    ratios = [one["per_second"] / other["per_second"] for one, other in zip(a, b, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> None:
    """Measure and print the table; `--json` prints every figure instead."""
    softhsm = _found("softhsm/libsofthsm2.so", "*/softhsm/libsofthsm2.so")
    client = _found("*/pkcs11/p11-kit-client.so")
    with tempfile.TemporaryDirectory(prefix="kv-bench-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        direct, server = stack.enter_context(_plain(directory, softhsm, client))
        ours = stack.enter_context(_keyvisor(directory, softhsm, client))
        figures: dict[str, dict[str, list[dict[str, float]]]] = {}
        quiet = "--json" in sys.argv[1:]
        for _ in track(range(ROUNDS), "rounds", console=Console(stderr=True), disable=quiet):
            for operation in ours.operations:
                for peer in (direct, server, ours):
                    rounds = figures.setdefault(operation, {}).setdefault(peer.name, [])
                    rounds.append(peer.measure(operation, SECONDS))
    if quiet:
        print(json.dumps(figures, indent=2))
        return
    table = Table(
        title=f"one client, {ROUNDS} rounds of {SECONDS} s, p50 in microseconds, ratios of operations per second"
    )
    for column in ("operation", direct.name, server.name, ours.name, "to p11-kit server", "to SoftHSM"):
        table.add_column(column, justify="left" if column == "operation" else "right")
    for operation, peers in figures.items():
        p50 = [f"{statistics.median(r['p50'] for r in peers[p.name]):.0f}" for p in (direct, server, ours)]
        ratios = [_ratio(peers[ours.name], peers[p.name]) for p in (server, direct)]
        table.add_row(operation, *p50, *ratios)
    Console(width=None if sys.stdout.isatty() else 140).print(table)


if __name__ == "__main__":
    main()
