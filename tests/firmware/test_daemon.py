"""The daemon as a process: it starts, says so, serves, and ends with all that it started; and the operator's verbs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from tests.images import an_image
from typer.testing import CliRunner

from keyvisor_firmware.cli import audit, checkup, doctor, hsm, up
from keyvisor_firmware.cli.operator_door import DoorUnusable
from keyvisor_firmware.config import Config
from keyvisor_firmware.daemon import run
from keyvisor_firmware.errors import ConfigInvalid, StateForeign, StateInUse
from keyvisor_guest import Guest, Host
from keyvisor_guest.containers.block_runs import BlockRuns
from keyvisor_guest.errors import NotRunning, StateDirectoryUnusable
from keyvisor_guest.wire.messages import Guest as GuestMessage

from .machine import STARTED

HSM = "03.0011"


class Daemon:
    """`keyvisor up` on a state directory, in a process."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.up()

    def up(self) -> None:
        code = "from keyvisor_firmware.cli.up import app; app()"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with (self.state.parent / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, "--state", str(self.state)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        assert self.said, self.log()

    def down(self, number: int = signal.SIGTERM) -> int:
        """The exit code."""
        self.process.send_signal(number)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        assert self.process.stdout.read() == "", "one line is all that it prints"
        self.process.stdout.close()
        return code

    def log(self) -> str:
        return (self.state.parent / "log").read_text(encoding="utf-8")


@pytest.fixture
def state() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kv-") as name:
        yield Path(name) / "state"


def start(host: Host) -> GuestMessage:
    """Start the guest `payments`."""
    return host.start("payments", an_image(host.host_key_document()).data)


@pytest.fixture
def daemon(state: Path) -> Iterator[Daemon]:
    try:
        Config().module_path()
    except ConfigInvalid as error:
        pytest.skip(str(error))
    started = Daemon(state)
    yield started
    if started.process.poll() is None:
        started.down()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_says_when_it_is_ready_and_ends_orderly(daemon: Daemon, number: int) -> None:
    assert daemon.said == f"keyvisor: ready, state {daemon.state}\n"
    start(Host(state=daemon.state))
    assert daemon.down(number) == 0
    left = [path for path in (daemon.state / "run").rglob("*") if path.is_socket()]
    assert left == []
    assert "Traceback" not in daemon.log()


def test_guests_and_their_doors_come_back(daemon: Daemon) -> None:
    host = Host(state=daemon.state)
    before = start(host)
    host.attach("payments", HSM)
    Guest("payments", state=daemon.state).bind(HSM)
    document = host.host_key_document()
    for number in (signal.SIGTERM, signal.SIGKILL):
        daemon.down(number)
        daemon.up()
        assert host.host_key_document() == document
        (after,) = host.guests()
        assert (after.cuid, after.attached) == (before.cuid, [HSM])
        (view,) = Guest("payments", state=daemon.state).hsms()
        assert view.state == "bound"


def test_what_a_killed_daemon_left_of_a_guest_that_does_not_run_is_cleared_away(daemon: Daemon) -> None:
    daemon.down(signal.SIGKILL)
    left = daemon.state / "run" / "guests" / "gone"
    left.mkdir(parents=True)
    (left / "guest.sock").touch()
    daemon.up()
    assert not left.exists()


def test_a_stopped_guest_has_no_doors(daemon: Daemon) -> None:
    host = Host(state=daemon.state)
    start(host)
    guest = Guest("payments", state=daemon.state)
    assert guest.hsms() == []
    host.stop("payments")
    with pytest.raises(NotRunning):
        guest.hsms()
    assert list((daemon.state / "run" / "guests").iterdir()) == []


def test_a_second_daemon_is_refused_and_the_first_notices_nothing(daemon: Daemon) -> None:
    with pytest.raises(StateInUse) as caught:
        run(daemon.state, Config())
    assert "\n" not in str(caught.value)
    assert Host(state=daemon.state).guests() == []


def test_another_versions_state_is_refused(daemon: Daemon) -> None:
    daemon.down()
    engine = create_engine(f"sqlite:///{daemon.state / 'state.db'}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE schema SET version = 99"))
    engine.dispose()
    with pytest.raises(StateForeign, match="version 99"):
        run(daemon.state, Config())


def test_a_path_too_long_for_sockets_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    state = tmp_path / ("x" * 100)
    with pytest.raises(StateDirectoryUnusable, match="shorter --state"):
        run(state, Config())
    assert not state.exists()


def test_a_module_that_is_not_there_is_refused_before_anything_is_made(state: Path) -> None:
    with pytest.raises(ConfigInvalid, match="let `module` name one"):
        run(state, Config(module=state / "none.so"))
    assert not state.exists()


def test_the_operators_verbs(daemon: Daemon) -> None:
    host = Host(state=daemon.state)
    start(host)
    host.attach("payments", HSM)
    Guest("payments", state=daemon.state).bind(HSM)
    options = ["--state", str(daemon.state)]

    told = json.loads(CliRunner().invoke(hsm.app, ["list", *options, "--json"]).stdout)["hsms"]
    (one,) = [each for each in told if each["holder"]]
    assert (one["apqn"], one["holder"], one["state"], len(one["mkvp"])) == (HSM, "payments", "bound", 32)
    table = CliRunner().invoke(hsm.app, ["list", *options]).stdout
    assert one["mkvp"] in table

    entries = json.loads(CliRunner().invoke(audit.app, [*options, "--json"]).stdout)["entries"]
    assert [entry["event"] for entry in entries] == ["restore", *STARTED, "attach", "bind"]
    assert "outcome=done" in CliRunner().invoke(audit.app, options).stdout

    checked = CliRunner().invoke(doctor.app, [*options, "--json"])
    checks = {check["check"]: check for check in json.loads(checked.stdout)["checks"]}
    assert ", release " in checks["stock client (p11-kit)"]["found"]
    assert "of the module's " in checks["all mechanisms"]["found"]
    assert not checks["all mechanisms"]["needed"]
    assert checks["daemon"]["fine"]
    assert checks["state directory"]["fine"]


def test_the_verbs_without_a_daemon_say_the_way_out(state: Path) -> None:
    for app, words in ((hsm.app, ["list"]), (audit.app, [])):
        ended = CliRunner().invoke(app, [*words, "--state", str(state)])
        assert isinstance(ended.exception, DoorUnusable)
        assert "keyvisor up" in str(ended.exception)


def test_the_doctor_says_what_is_missing_and_ends_with_1(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.mkdir(mode=0o700)
    state.chmod(0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(checkup, "BlockRuns", lambda: BlockRuns(state / "block_loop.so"))
    ended = CliRunner().invoke(doctor.app, ["--state", str(state), "--json"])
    assert ended.exit_code == 1
    checks = {check["check"]: check for check in json.loads(ended.stdout)["checks"]}
    assert "chmod 700" in checks["state directory"]["found"]
    assert "install `opensc`" in checks["pkcs11-tool"]["found"]
    assert not checks["pkcs11-tool"]["needed"]
    assert "run `make setup` again; without it" in checks["compiled sealing of blocks"]["found"]
    assert not checks["compiled sealing of blocks"]["needed"]
    assert "keyvisor up" in checks["daemon"]["found"]
    assert "missing" in CliRunner().invoke(doctor.app, ["--state", str(state)]).stdout
    long = CliRunner().invoke(doctor.app, ["--state", "/" + "x" * 120, "--json"])
    assert "shorter --state" in long.stdout


@pytest.mark.parametrize(
    "app", [up.app, audit.app, doctor.app, hsm.app], ids=["up", "audit", "doctor", "hsm"]
)
def test_every_verb_has_help(app: object) -> None:
    ended = CliRunner().invoke(app, ["--help"])  # type: ignore[arg-type]  # typer's app
    assert ended.exit_code == 0
    assert "Usage" in ended.stdout
