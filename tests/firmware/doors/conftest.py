"""A machine with its doors open on real Unix sockets, and a client from the standard library."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from keyvisor_firmware.doors.doors import Doors
from keyvisor_guest import Host
from keyvisor_guest.wire.messages import Guest, Problem

from ..machine import Machine


class Connection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("keyvisor", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(self._path))


@dataclass
class Answer:
    """What came back."""

    status: int
    text: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    def ok(self) -> Any:
        assert self.status == 200, self.text
        return self.json

    def problem(self, status: int) -> Problem:
        assert self.status == status, self.text
        return Problem.model_validate_json(self.text)


class House:
    """The doors in an event loop of their own."""

    def __init__(self, state: Path, machine: Machine) -> None:
        self.state = state
        self.machine = machine
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.doors = self._wait(self._made())
        self._wait(self.doors.open_all(()))

    async def _made(self) -> Doors:
        return Doors(self.state, self.machine.firmware, self.machine.log)

    def _wait(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(60)

    def close(self) -> None:
        self._wait(self.doors.close_all())
        self._wait(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def host(self) -> Host:
        """A host of this machine."""
        return Host(state=self.state)

    def start(self, name: str, image: bytes | None = None) -> Guest:
        """Start a guest as a host does."""
        return self.host.start(name, self.machine.image(name) if image is None else image)

    def path(self, door: str) -> Path:
        """The socket of `host`, `operator`, or of a guest."""
        run = self.state / "run"
        return run / f"{door}.sock" if door in ("host", "operator") else run / "guests" / door / "guest.sock"

    def ask(self, door: str, method: str, path: str, body: object = None) -> Answer:
        """One request; `body` is sent as JSON, bytes as they are."""
        connection = Connection(self.path(door))
        try:
            text = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, text)
            response = connection.getresponse()
            return Answer(response.status, response.read())
        finally:
            connection.close()


@pytest.fixture
def new_house(machine: Machine) -> Iterator[Callable[[str], House]]:
    """Opens the doors below a state directory with this name."""
    with tempfile.TemporaryDirectory(prefix="kv-") as name:
        made: list[House] = []

        def make(state: str) -> House:
            path = Path(name) / state
            path.mkdir(mode=0o700)
            made.append(House(path, machine))
            return made[-1]

        yield make
        for house in made:
            house.close()


@pytest.fixture
def house(new_house: Callable[[str], House]) -> House:
    """The doors of a machine on which nothing runs yet."""
    return new_house("state")
