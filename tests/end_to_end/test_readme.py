"""What the README tells a newcomer to type, typed: its commands in its order, then its Python, on a fresh state."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .conftest import PROGRAMS, World

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
BY_HAND = README.partition("## By hand")[2].partition("\n## ")[0]
COMMANDS = [line[4:] for line in BY_HAND.partition("```")[0].splitlines() if line.startswith("    ")]
PYTHON = re.findall(r"```python\n(.*?)```", BY_HAND, re.DOTALL)

READY = 'until [ -S "$KEYVISOR_STATE/run/host.sock" ]; do kill -0 %1 || exit 9; sleep 0.1; done'


def test_what_the_readme_tells_to_type_works(new_world: Callable[[], World]) -> None:
    """The one thing that a person does and a script does not is to wait until the firmware is ready."""
    world = new_world()
    up = next(number for number, line in enumerate(COMMANDS) if line.startswith("keyvisor up &"))
    script = world.directory / "by-hand.sh"
    (world.directory / "snippet.py").write_text(PYTHON[0])
    lines = [
        "set -e -m",
        f'export PATH="{PROGRAMS}:$PATH" KEYVISOR_STATE="{world.state}"',
        *COMMANDS[1:up],
        "trap 'kill %1; wait %1' EXIT",
        COMMANDS[up],
        READY,
        *COMMANDS[up + 1 :],
        f'"{sys.executable}" "{world.directory}/snippet.py"',
    ]
    script.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        ["bash", str(script)],
        cwd=world.directory,
        env={**world.environment, "TMPDIR": str(world.directory)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert COMMANDS[0].startswith('export PATH="$PWD/.venv/bin:$PATH" KEYVISOR_STATE=')
    assert len(PYTHON) == 1
    assert "token label        : 03.0011" in done.stdout
    assert "nothing was refused" in done.stdout
    assert "[('03.0011', 'bound')]" in done.stdout
    assert re.search(r"^[0-9a-f]{32}$", done.stdout, re.MULTILINE)
    assert not (world.state / "run" / "host.sock").exists()  # it ended, and tidied up
