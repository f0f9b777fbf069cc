"""The world of the end-to-end tests: a real daemon in a state directory of its own, driven by the real command."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = Path(sys.executable).parent
HSM, SPARE, ACCELERATOR = "03.0011", "05.0011", "07.0000"


@dataclass(frozen=True)
class Ran:
    """What a program did. `told` is all that it printed."""

    code: int
    told: str

    def ok(self) -> str:
        """Its output; it must have succeeded."""
        assert self.code == 0, self.told
        return self.told

    def refused(self) -> str:
        """Its output; it must have failed, in an orderly way."""
        assert self.code == 1, f"exit code {self.code}: {self.told}"
        assert "Traceback" not in self.told
        return self.told


class World:
    """One state directory, its daemon, and a directory for files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "s"
        self.daemon: subprocess.Popen[str] | None = None
        self.environment = {
            **{
                k: v
                for k, v in os.environ.items()
                if not k.startswith(("KEYVISOR_", "P11_KIT_", "SOFTHSM2_"))
            },
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "KEYVISOR_STATE": str(self.state),
        }

    # --- the daemon

    def up(self, config: Path | None = None) -> None:
        """Start the daemon and wait until it says that it is ready."""
        options = [] if config is None else ["--config", str(config)]
        with (self.directory / "daemon.log").open("a") as log:
            self.daemon = subprocess.Popen(
                ["keyvisor", "up", *options],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.daemon.stdout is not None
        line = self.daemon.stdout.readline()
        assert "ready" in line, self.log()

    def down(self, with_signal: int = signal.SIGTERM) -> int:
        """End the daemon; its exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(with_signal)
        code = self.daemon.wait(timeout=30)
        assert self.daemon.stdout is not None
        self.daemon.stdout.close()
        self.daemon = None
        return code

    def restart(self, with_signal: int = signal.SIGTERM) -> None:
        """End the daemon and start it again on the same state."""
        self.down(with_signal)
        self.up()

    def log(self) -> str:
        """All that the daemon and its gates have said on standard error."""
        return (self.directory / "daemon.log").read_text(encoding="utf-8", errors="replace")

    def gates(self, guest: str) -> list[int]:
        """The process ids of this daemon's gates of a guest."""
        assert self.daemon is not None
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            if (
                parent == self.daemon.pid
                and b"keyvisor_firmware.broker.gate" in words
                and guest.encode() in words
            ):
                found.append(int(entry.name))
        return found

    # --- programs

    def run(self, *command: str | Path, seconds: float = 120) -> Ran:
        """Run a program to its end."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
        return Ran(done.returncode, done.stdout)

    def keyvisor(self, *words: str | Path) -> Ran:
        """Run the command."""
        return self.run("keyvisor", *words)

    def json(self, *words: str | Path) -> Any:
        """What a verb prints with --json."""
        return json.loads(self.keyvisor(*words, "--json").ok())

    def tool(self, guest: str, *options: str | Path, token: str = HSM) -> Ran:
        """Run pkcs11-tool in a guest."""
        words = (
            "guest",
            "exec",
            "--guest",
            guest,
            "--",
            "pkcs11-tool",
            "--module",
            "",
            "--token-label",
            token,
        )
        return self.keyvisor(*words, *options)

    # --- what every story needs

    def build(self, name: str, *parts: str | Path) -> None:
        """The owner's image NAME.img, of these parts or of a small kernel; its identity in NAME.identity."""
        self.keyvisor("host", "host-key", "--output", "host-key.pem").ok()
        (self.directory / "kernel").write_text(f"kernel of {name}\n", encoding="utf-8")
        words = ("owner", "image", "build", "-k", "host-key.pem", "--no-verify", "--force")
        outputs = ("--output", f"{name}.img", "--identity-out", f"{name}.identity")
        self.keyvisor(*words, *outputs, *(parts or ("--kernel", "kernel"))).ok()

    def guest(self, name: str, *hsms: str) -> None:
        """Build an image, start a guest from it, attach HSMs."""
        self.build(name)
        self.keyvisor("host", "start", name, "--image", f"{name}.img").ok()
        if hsms:
            self.keyvisor("host", "attach", name, *hsms).ok()

    def request(self, guest: str, secret: str, value: bytes | None = None) -> Path:
        """The owner's add-secret request for a guest; with a value of the owner's choice if one is given."""
        path = self.directory / f"{guest}-{secret}.request"
        more: tuple[str | Path, ...] = ()
        if value is not None:
            (self.directory / "value").write_bytes(value)
            more = ("--input-secret", "value")
        words = (
            "owner",
            "request",
            "association",
            secret,
            "--host-key-document",
            "host-key.pem",
            "--no-verify",
        )
        self.keyvisor(*words, "--identity", f"{guest}.identity", "--output", path, "--force", *more).ok()
        return path

    def add_secret(self, guest: str, secret: str, value: bytes | None = None) -> None:
        """Make a request and hand it in."""
        self.keyvisor("guest", "secret", "add", "--guest", guest, self.request(guest, secret, value)).ok()

    def mkvp(self, apqn: str = HSM) -> str:
        """The MKVP of an HSM, from the operator's door."""
        hsms = self.json("hsm", "list")["hsms"]
        return str(next(one["mkvp"] for one in hsms if one["apqn"] == apqn))

    def policy(self, secret: str, *, count: str = "1", serial: str | None = None) -> Path:
        """A policy of one rule for the HSM's master key."""
        field = f", serial: {serial}" if serial else ""
        path = self.directory / f"{secret}.yaml"
        path.write_text(
            "version: 1\n"
            "associations:\n"
            f"  - name: rule-of-{secret}\n"
            f"    secret: {secret}\n"
            f"    hsm: {{mode: ep11, mkvp: 0x{self.mkvp()}{field}}}\n"
            f"    count: {count}\n",
            encoding="utf-8",
        )
        return path

    def ready(self, name: str, secret: str, hsm: str = HSM, value: bytes | None = None) -> None:
        """A guest with one HSM associated."""
        self.guest(name, hsm)
        self.add_secret(name, secret, value)
        self.keyvisor("guest", "apply", "--guest", name, self.policy(secret)).ok()


@contextlib.contextmanager
def worlds() -> Iterator[Callable[[], World]]:
    """Makes worlds, and ends them. Paths are short, because those of Unix sockets must be."""
    made: list[World] = []

    def make() -> World:
        made.append(World(Path(tempfile.mkdtemp(prefix="kv-"))))
        return made[-1]

    yield make
    for world in made:
        if world.daemon is not None:
            world.down()
        shutil.rmtree(world.directory)


@pytest.fixture
def new_world() -> Iterator[Callable[[], World]]:
    """Makes worlds for one test."""
    with worlds() as make:
        yield make


@pytest.fixture
def world(new_world: Callable[[], World]) -> World:
    """A world whose daemon runs, for one test."""
    made = new_world()
    made.up()
    return made


@pytest.fixture(scope="module")
def associated() -> Iterator[World]:
    """A world with the guest `payments`, which may use keys, for all tests of a module: each has ids of its own."""
    with worlds() as make:
        made = make()
        made.up()
        made.ready("payments", "payments-signing")
        yield made
