"""A machine with crypto cards, and guests with doors: real tokens, real gates, all of it in directories of the test."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from keyvisor_firmware.broker.gatekeeper import Gatekeeper, Gatekeepers, OnRefusal, nobody
from keyvisor_firmware.broker.hot.loop import HotLoop, HotLoopMissing
from keyvisor_firmware.broker.limits import DEFAULTS, Limits
from keyvisor_hsm.cards import Apqn, ConfigurationData, Generation, Mode
from keyvisor_hsm.master_keys import OperatorToken
from keyvisor_hsm.partitions import PartitionKeys

from .peer import SECONDS, Peer

CRYPTO = Apqn(0x03, 0x11)
SPARE = Apqn(0x05, 0x11)  # carries the same master key
ACCELERATOR = Apqn(0x07, 0x11)
SECRET = b"association secret of payments!!"
OTHER_SECRET = b"some other association secret..."


def slot_of(apqn: Apqn) -> int:
    """The slot id that an application sees."""
    return apqn.card << 16 | apqn.domain


def wait_for(happened: Callable[[], bool], what: str) -> None:
    """Look until it is so. Only for what happens in another process."""
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.002)


def children() -> set[int]:
    """The processes that this one has started."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


@dataclass
class Guest:
    """A guest with its three HSMs attached."""

    keeper: Gatekeeper
    token: OperatorToken
    peers: list[Peer] = field(default_factory=list)

    def connect(self, version: int = 0) -> Peer:
        """A new application at the door."""
        peer = Peer(self.keeper.door, version)
        self.peers.append(peer)
        return peer

    def keys(self, secret: bytes = SECRET) -> PartitionKeys:
        """What the operator token derives for the guest's HSMs and the secret."""
        return self.token.partition_keys("red", secret)

    def associate(self, apqn: Apqn = CRYPTO, secret: bytes = SECRET) -> None:
        """Bind and associate."""
        self.keeper.bind(apqn)
        self.keeper.associate(apqn, self.keys(secret))

    def gate(self) -> int:
        """The process id of the guest's gate, started by a connection if it was not running."""
        with Peer(self.keeper.door):
            return self.running_gate()

    def running_gate(self) -> int:
        """The process id of the guest's gate."""
        listener = f"--listener {self.keeper.listener.fileno()} "
        found = [pid for pid in children() if f" {listener}" in f" {command_line(pid)} "]
        assert len(found) == 1, f"{len(found)} gates run"
        return found[0]

    def leave(self) -> None:
        """All applications go, and the door closes."""
        for peer in self.peers:
            peer.close()
        self.keeper.stop()


def command_line(pid: int) -> str:
    """The arguments of a process; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@dataclass
class Machine:
    """Cards, partitions and doors."""

    home: Path
    module: Path
    token: OperatorToken
    compiled: bool = True  # whether gates take the hot loop
    guests: list[Guest] = field(default_factory=list)

    @property
    def partitions(self) -> Path:
        return self.home / "partitions"

    def guest(
        self,
        name: str = "payments",
        *,
        idle_seconds: float = 60.0,
        limits: Limits = DEFAULTS,
        on_refusal: OnRefusal = nobody,
    ) -> Guest:
        """A new guest with its three HSMs, unbound."""
        keepers = Gatekeepers(
            run_directory=self.home / "run",
            partitions=self.partitions,
            module=self.module,
            idle_seconds=idle_seconds,
            guest_limits={name: limits},
            compiled=self.compiled,
            on_refusal=on_refusal,
        )
        guest = Guest(keepers.open(name), self.token)
        self.guests.append(guest)
        for apqn, mode in ((CRYPTO, Mode.EP11), (SPARE, Mode.EP11), (ACCELERATOR, Mode.ACCEL)):
            guest.keeper.attach(self.about(apqn, mode))
        return guest

    def about(self, apqn: Apqn, mode: Mode, serial: str = "93AADFK719460083") -> ConfigurationData:
        """An HSM's configuration data."""
        mkvp = self.token.mkvp("red") if mode is Mode.EP11 else None
        return ConfigurationData(
            apqn, Generation.CEX8, mode, serial, mkvp, (8, 3), 4, frozenset({"fips2021"}), online=True
        )


@pytest.fixture(scope="session", params=["python", "compiled"])
def path(request: pytest.FixtureRequest) -> HotLoop | None:
    """The way that requests take: everything that is true of the gate is true on both. None is the Python way."""
    if request.param == "python":
        return None
    try:
        return HotLoop()
    except HotLoopMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def softhsm() -> Path:
    """SoftHSM's library."""
    path = Path(os.environ.get("KEYVISOR_TEST_MODULE", "/usr/lib/softhsm/libsofthsm2.so"))
    if not path.exists():
        pytest.skip(f"there is no SoftHSM at {path}")
    return path


@pytest.fixture(scope="session")
def operator_token(softhsm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorToken]:
    token = OperatorToken.open(tmp_path_factory.mktemp("operator"), softhsm)
    token.ensure_master_key("red")
    yield token
    token.close()


@pytest.fixture
def machine(softhsm: Path, operator_token: OperatorToken, path: HotLoop | None) -> Iterator[Machine]:
    """A machine of the test's own. Its directory has a short name: a Unix socket's path may be 107 bytes long."""
    with tempfile.TemporaryDirectory(prefix="kv-") as home:
        machine = Machine(Path(home), softhsm, operator_token, path is not None)
        yield machine
        for guest in machine.guests:
            guest.leave()


@pytest.fixture(scope="module")
def shared(softhsm: Path, operator_token: OperatorToken, path: HotLoop | None) -> Iterator[Guest]:
    """A guest whose crypto HSM is associated and whose accelerator is bound, for tests that leave it as it was."""
    with tempfile.TemporaryDirectory(prefix="kv-") as home:
        guest = Machine(Path(home), softhsm, operator_token, path is not None).guest()
        guest.associate()
        guest.keeper.bind(ACCELERATOR)
        yield guest
        guest.leave()


@pytest.fixture
def peer(shared: Guest) -> Iterator[Peer]:
    """An application of the shared guest."""
    with Peer(shared.keeper.door) as peer:
        yield peer
