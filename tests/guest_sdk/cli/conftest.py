"""Running the command: in this process for what it prints, as a process of its own for what it becomes."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyvisor_guest.cli import main

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("hsm", "policy", "firmware", "guest-sdk")


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


@pytest.fixture
def verbs() -> dict[str, str]:
    """The verbs of pyproject.toml; a test may add its own before it runs the command."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return dict(project["entry-points"]["keyvisor.verbs"])


@pytest.fixture
def distribution(verbs: dict[str, str], tmp_path: Path) -> Callable[[], Path]:
    """Writes the distribution's metadata, so that the tests need no installed one and may have verbs of their own."""

    def write() -> Path:
        site = tmp_path / "site"
        info = site / "keyvisor-0.1.0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: keyvisor\nVersion: 0.1.0\n")
        lines = "".join(f"{name} = {value}\n" for name, value in verbs.items())
        (info / "entry_points.txt").write_text(f"[keyvisor.verbs]\n{lines}")
        return site

    return write


@pytest.fixture
def keyvisor(
    distribution: Callable[[], Path],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Ended]:
    """Run the command in this process."""
    for variable in ("KEYVISOR_STATE", "KEYVISOR_GUEST", "KEYVISOR_PKCS11_MODULE"):
        monkeypatch.delenv(variable, raising=False)

    def run(*arguments: str) -> Ended:
        monkeypatch.syspath_prepend(str(distribution()))
        with pytest.raises(SystemExit) as end:
            main(arguments)
        captured = capfd.readouterr()
        code = end.value.code
        assert isinstance(code, int)
        return Ended(code, captured.out, captured.err)

    return run


@pytest.fixture
def process(distribution: Callable[[], Path], tmp_path: Path) -> Callable[..., Ended]:
    """Run Python code, by default the command, as a process of its own, in an empty directory."""
    here = tmp_path / "here"
    here.mkdir()

    def run(
        *arguments: str,
        code: str = "from keyvisor_guest.cli import main; main()",
        environ: dict[str, str] | None = None,
        directory: Path = here,
    ) -> Ended:
        path = os.pathsep.join([str(distribution()), *(str(ROOT / package) for package in PACKAGES)])
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("KEYVISOR_", "P11_KIT_"))
        }
        ended = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**kept, "PYTHONPATH": path, **(environ or {})},
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    return run
