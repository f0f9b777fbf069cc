"""What docs/containers.md tells an image's owner to type, typed; and every option in it is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from ..guest_sdk.ordinary_image import layer, write_layout

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "containers.md").read_text(encoding="utf-8")
COMMANDS = [line[4:] for line in PAGE.splitlines() if line.startswith("    keyvisor")]
(PYTHON,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PROGRAMS = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "COLUMNS": "200"}


def run(directory: Path, *words: str) -> str:
    done = subprocess.run(words, cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def source(directory: Path) -> None:
    write_layout(directory / "source", [layer([("etc", None), ("etc/motd", b"welcome\n")])], "v1")


def test_the_commands_of_the_page_work_in_its_order(tmp_path: Path) -> None:
    source(tmp_path)
    told = run(tmp_path, "bash", "-e", "-c", "\n".join(COMMANDS))
    assert len(COMMANDS) == 7
    assert "\nverified: 1 layers" in told
    assert "welcome\n" in told
    assert (tmp_path / "files/etc/motd").read_text() == "welcome\n"
    assert (tmp_path / "thin.xml").read_text().startswith("<superblock")


def test_the_python_of_the_page_works(tmp_path: Path) -> None:
    source(tmp_path)
    assert run(tmp_path, sys.executable, "-c", PYTHON) == "welcome\nTrue\n"


def test_every_option_of_the_page_is_one(tmp_path: Path) -> None:
    verbs = [
        ("build",),
        ("verify",),
        ("ls",),
        ("extract",),
        ("push",),
        ("ocicrypt", "encrypt"),
        ("ocicrypt", "decrypt"),
    ]
    helps = "".join(run(tmp_path, "keyvisor", "image", *verb, "--help") for verb in verbs)
    known = set(re.findall(r"--[a-z][a-z-]+", helps)) | {"--decryption-key"}
    named = set(re.findall(r"--[a-z][a-z-]+", PAGE))
    assert len(named) > 20
    assert named <= known
