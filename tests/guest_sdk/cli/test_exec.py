"""`keyvisor guest exec` and `env`: what the program finds, how it ends, and what the sandbox keeps from it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from keyvisor_guest.cli.sandbox import name_module, sandboxed
from keyvisor_guest.errors import CommandUnusable
from keyvisor_guest.state_directory import closed_mark, pkcs11_socket

MODULE = Path("/usr/lib/pkcs11/p11-kit-client.so")
SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"


def _sandbox_refused() -> str:
    """Why a sandbox cannot be made on this machine; empty if it can."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    bare = ["bwrap", "--unshare-all", "--cap-drop", "ALL", "--ro-bind", "/", "/", "--", "true"]
    return subprocess.run(bare, capture_output=True, text=True, check=False).stderr.strip()


REFUSED = _sandbox_refused()
needs_sandbox = pytest.mark.skipif(bool(REFUSED), reason=f"no sandbox here: {REFUSED}")


@pytest.fixture
def doors(state: Path) -> Iterator[Path]:
    """A state directory with the doors of two guests and of the host, and a secret of the firmware's."""
    state = state / "state"
    state.mkdir()
    (state / "operator.db").write_text("nobody's")
    listeners = []
    for path in (pkcs11_socket(state, "g"), pkcs11_socket(state, "other"), state / "run" / "host.sock"):
        path.parent.mkdir(parents=True, exist_ok=True)
        listeners.append(socket.socket(socket.AF_UNIX))
        listeners[-1].bind(str(path))
        listeners[-1].listen()
    yield state
    for listener in listeners:
        listener.close()


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A file in the place of the stock client, which these tests do not load."""
    path = tmp_path / "p11-kit-client.so"
    path.touch()
    return path


@pytest.fixture
def execute(process: Callable[..., Any], doors: Path, module: Path) -> Callable[..., Any]:
    def run(*arguments: str, **how: Any) -> Any:
        environ = {"KEYVISOR_STATE": str(doors), "KEYVISOR_GUEST": "g", "KEYVISOR_PKCS11_MODULE": str(module)}
        environ.update(how.pop("environ", {}))
        return process("guest", "exec", *arguments, environ=environ, **how)

    return run


def test_the_program_finds_its_guest(execute: Callable[..., Any], doors: Path, module: Path) -> None:
    ended = execute("--", sys.executable, "-c", SHOW, "--guest", "x", "--", "", environ={"KEPT": "yes"})
    assert (ended.code, ended.err) == (0, "")
    arguments, environ = json.loads(ended.out)
    assert arguments == ["--guest", "x", "--", ""]
    assert environ["KEPT"] == "yes"
    assert environ["KEYVISOR_GUEST"] == "g"
    assert environ["KEYVISOR_STATE"] == str(doors)
    assert environ["KEYVISOR_PKCS11_MODULE"] == str(module)
    kind, _, path = environ["P11_KIT_SERVER_ADDRESS"].partition("=")
    assert kind == "unix:path"
    assert unquote(path) == str(pkcs11_socket(doors, "g"))
    assert not set(path) & set(" ;"), "the client ends an address there"


def test_part3_T6_nothing_runs_in_a_guest_that_is_not_open_yet(
    execute: Callable[..., Any], doors: Path
) -> None:
    closed_mark(doors, "g").touch()
    ended = execute("--", sys.executable, "-c", SHOW)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("error: guest `g` is not open before its secret store is locked: ")
    closed_mark(doors, "g").unlink()
    assert execute("--", sys.executable, "-c", SHOW).code == 0


def test_the_dashes_may_be_left_out(execute: Callable[..., Any]) -> None:
    ended = execute(sys.executable, "-c", SHOW, "--sandbox")
    assert json.loads(ended.out)[0] == ["--sandbox"]


def test_a_relative_state_directory_becomes_absolute(execute: Callable[..., Any], doors: Path) -> None:
    ended = execute("--state", ".", "--", sys.executable, "-c", SHOW, directory=doors)
    assert json.loads(ended.out)[1]["KEYVISOR_STATE"] == str(doors)


@pytest.mark.parametrize("code", [0, 1, 2, 77])
def test_the_programs_exit_code_is_the_commands(execute: Callable[..., Any], code: int) -> None:
    assert execute("--", sys.executable, "-c", f"raise SystemExit({code})").code == code


def test_a_signal_that_ends_the_program_is_seen_outside(execute: Callable[..., Any]) -> None:
    assert execute("--", sys.executable, "-c", "import os; os.kill(os.getpid(), 15)").code == -15


def test_the_documented_line_works_though_the_shell_expands_it_first(
    execute: Callable[..., Any], module: Path
) -> None:
    line = ["--", sys.executable, "-c", SHOW, "--module", "", "-L"]
    assert json.loads(execute(*line).out)[0] == ["--module", str(module), "-L"]


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (["x", "--module", "", "-L"], ["x", "--module", str(MODULE), "-L"]),
        (["x", "--module="], ["x", f"--module={MODULE}"]),
        (["x", "--provider=", "a"], ["x", f"--provider={MODULE}", "a"]),
        (["x", "--provider", ""], ["x", "--provider", str(MODULE)]),
        (["x", "--module", "/mine.so"], ["x", "--module", "/mine.so"]),
        (["x", "--module=/mine.so"], ["x", "--module=/mine.so"]),
        (["x", "--module"], ["x", "--module"]),
        (["x", "--module", "-L", ""], ["x", "--module", "-L", ""]),
        (["x", "", "--label", ""], ["x", "", "--label", ""]),
        (["x", "--module", "", ""], ["x", "--module", str(MODULE), ""]),
    ],
)
def test_only_an_empty_module_is_named(command: list[str], named: list[str]) -> None:
    assert name_module(command, MODULE) == named


def test_what_cannot_be_run_ends_as_in_a_shell(execute: Callable[..., Any], module: Path) -> None:
    ended = execute("--", "no-such-program", "-x")
    assert (ended.code, ended.err) == (
        127,
        "error: no program `no-such-program`: is it installed, and in PATH?\n",
    )
    assert execute("--", "/no/such/program").code == 127
    ended = execute("--", str(module))
    assert (ended.code, ended.err) == (126, f"error: cannot run `{module}`: it is not executable\n")


def test_what_is_no_program_at_all(execute: Callable[..., Any], module: Path) -> None:
    module.write_bytes(b"\x7fELF, or so it says")
    module.chmod(0o755)
    ended = execute("--", str(module))
    assert (ended.code, ended.err) == (126, f"error: cannot run `{module}`: exec format error\n")


def test_a_guest_that_is_not_there_is_said_before_the_program_runs(execute: Callable[..., Any]) -> None:
    ended = execute("--guest", "nobody", "--", sys.executable, "-c", "print('ran')")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("error: no guest `nobody` in")
    assert "keyvisor host list" in ended.err


def test_a_module_that_is_not_there(execute: Callable[..., Any]) -> None:
    ended = execute("--", "true", environ={"KEYVISOR_PKCS11_MODULE": "/no/client.so"})
    assert (ended.code, ended.out) == (1, "")
    assert "unset KEYVISOR_PKCS11_MODULE" in ended.err


def test_env_is_for_a_shells_eval(process: Callable[..., Any], doors: Path, module: Path) -> None:
    environ = {"KEYVISOR_PKCS11_MODULE": str(module)}
    printed = process("guest", "env", "--guest", "g", "--state", str(doors), environ=environ).out
    shell = f'{printed}\nexec "$0" -c "$1"'
    ended = subprocess.run(
        ["sh", "-c", shell, sys.executable, SHOW],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.defpath},
    )
    found = json.loads(ended.stdout)[1]
    assert found["KEYVISOR_STATE"] == str(doors)
    assert found["KEYVISOR_PKCS11_MODULE"] == str(module)
    assert found["KEYVISOR_GUEST"] == "g"
    assert unquote(found["P11_KIT_SERVER_ADDRESS"]) == f"unix:path={pkcs11_socket(doors, 'g')}"


# Runs with the system's own Python, which is under /usr on every machine that has one; a virtual environment is not.
SYSTEM_PYTHON = "/usr/bin/python3"
needs_python = pytest.mark.skipif(not Path(SYSTEM_PYTHON).exists(), reason=f"no {SYSTEM_PYTHON}")

LOOK = """
import ctypes, json, os, socket, sys
state = os.environ["KEYVISOR_STATE"]
def walk():
    return sorted(os.path.relpath(os.path.join(at, name), state) for at, _, names in os.walk(state) for name in names)
def uncover():
    "Take the cover off the state directory, if need be as root of a user namespace of our own."
    libc = ctypes.CDLL(None)
    for _ in range(2):
        libc.umount2(state.encode(), 2)
        libc.unshare(0x10020000)
    return walk()
def connects(path):
    try:
        socket.socket(socket.AF_UNIX).connect(path)
    except OSError as error:
        return error.strerror
    return "connected"
def tries(act, *arguments):
    try:
        act(*arguments)
    except OSError as error:
        return error.strerror
    return "done"
mine = os.path.join(state, "run/guests/g/pkcs11.sock")
print(json.dumps({
    "seen": walk(),
    "mine": connects(mine),
    "other": connects(os.path.join(state, "run/guests/other/pkcs11.sock")),
    "host": connects(os.path.join(state, "run/host.sock")),
    "unlink": tries(os.unlink, mine),
    "net": [name for _, name in socket.if_nameindex()],
    "etc": tries(open, "/etc/made-by-a-test", "w"),
    "usr": tries(open, "/usr/made-by-a-test", "w"),
    "here": tries(open, "made-by-a-test", "w"),
    "home": os.path.exists("/root") or os.path.exists("/home"),
    "pids": sorted(name for name in os.listdir("/proc") if name.isdigit()),
    "argv": sys.argv[1:],
    "uncovered": uncover(),
}))
"""


@pytest.fixture
def seen_inside(execute: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    def look(**how: Any) -> dict[str, Any]:
        ended = execute("--sandbox", "--", SYSTEM_PYTHON, "-c", LOOK, "--module", "", **how)
        assert (ended.code, ended.err) == (0, "")
        found: dict[str, Any] = json.loads(ended.out)
        return found

    return look


@needs_sandbox
@needs_python
def test_the_sandbox_shows_one_guests_doors_and_nothing_else(
    seen_inside: Callable[..., dict[str, Any]], module: Path, tmp_path: Path
) -> None:
    found = seen_inside()
    assert found["seen"] == ["run/guests/g/pkcs11.sock"]
    assert found["mine"] == "connected"
    assert found["other"] == found["host"] == "No such file or directory"
    assert found["unlink"] == found["etc"] == found["usr"] == "Read-only file system"
    assert found["net"] == ["lo"]
    assert found["here"] == "done"
    assert (tmp_path / "here" / "made-by-a-test").exists()
    assert not found["home"]
    assert len(found["pids"]) <= 2  # bubblewrap's own first process and the program
    assert found["argv"] == ["--module", str(module)]


@needs_sandbox
@needs_python
@pytest.mark.parametrize("name", ["state", "link"])
def test_a_state_directory_below_the_working_directory_is_covered(
    seen_inside: Callable[..., dict[str, Any]], doors: Path, name: str
) -> None:
    """Also when it is named through a link: what is covered is what the link leads to."""
    here = doors.parent
    (here / "link").symlink_to(doors.name)
    found = seen_inside(environ={"KEYVISOR_STATE": str(here / name)}, directory=here)
    assert found["seen"] == ["run/guests/g/pkcs11.sock"]
    assert found["uncovered"] == ["run/guests/g/pkcs11.sock"]
    assert found["mine"] == "connected"
    assert (doors / "operator.db").exists()


@needs_sandbox
@pytest.mark.parametrize("directory", ["/", "/tmp"])
def test_the_root_and_the_shared_tmp_are_not_bound(execute: Callable[..., Any], directory: str) -> None:
    with tempfile.NamedTemporaryFile(dir="/tmp") as shared:
        ended = execute(
            "--sandbox",
            "--",
            "sh",
            "-c",
            'pwd; test -e "$0" || echo hidden',
            shared.name,
            directory=directory,
        )
    assert ended.out.splitlines() == [directory, "hidden"]


@needs_sandbox
def test_the_programs_exit_code_comes_out_of_the_sandbox(execute: Callable[..., Any]) -> None:
    assert execute("--sandbox", "--", "sh", "-c", "exit 77").code == 77
    assert execute("--sandbox", "--", "no-such-program").code == 127


def test_a_working_directory_inside_the_state_is_refused(execute: Callable[..., Any], doors: Path) -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    ended = execute("--sandbox", "--", "true", directory=doors / "run")
    assert ended.code == 1
    assert "is in the state directory" in ended.err
    assert "run from another one" in ended.err


def test_without_bubblewrap_it_says_what_to_install(execute: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "true").symlink_to(shutil.which("true") or "")
    ended = execute("--sandbox", "--", "true", environ={"PATH": str(tmp_path / "bin")})
    assert (ended.code, ended.err) == (127, "error: no program `bwrap`: install the package `bubblewrap`\n")


def test_the_cover_comes_after_all_that_could_show_the_state() -> None:
    """bubblewrap lays later arguments over earlier ones: only the guest's doors may follow the cover."""
    line = sandboxed(
        ["x"],
        state=Path("/w/state"),
        doors=Path("/w/state/run/guests/g"),
        module=MODULE,
        directory=Path("/w"),
    )
    cover = line.index("/w/state")
    assert line[cover - 1] == "--tmpfs"
    bound = [at for at, argument in enumerate(line) if argument in {"--bind", "--ro-bind"}]
    assert [line[at + 1] for at in bound if at > cover] == ["/w/state/run/guests/g"]
    assert line[-2:] == ["--", "x"]


@pytest.mark.parametrize("directory", ["/w/state", "/w/state/run/guests/g"])
def test_no_sandbox_from_inside_the_state(directory: str) -> None:
    with pytest.raises(CommandUnusable):
        sandboxed(
            ["x"], state=Path("/w/state"), doors=Path("/w/state/d"), module=MODULE, directory=Path(directory)
        )
