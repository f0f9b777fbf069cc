"""What docs/storage.md tells a host engineer to type, typed, and what it says about it is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from keyvisor_firmware.config import Limits, StorageLimits
from keyvisor_firmware.storage.amounts import amounts

from .conftest import World

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "storage.md").read_text(encoding="utf-8")
COMMANDS = [line[4:] for line in PAGE.splitlines() if line.startswith(("    keyvisor", "    echo"))]
(PYTHON,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def _run(world: World, *words: str) -> str:
    done = subprocess.run(
        words,
        cwd=world.directory,
        env=world.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands_of_the_page_work_in_its_order(world: World) -> None:
    told = _run(world, "bash", "-e", "-c", "\n".join(COMMANDS))
    assert len(COMMANDS) == 10
    assert re.search(r"^payments +guest variable +yes", told, re.MULTILINE)
    assert re.search(r"^payments", world.keyvisor("host", "storage").ok(), re.MULTILINE) is None


def test_the_steps_of_the_page_donate_and_give_back(world: World) -> None:
    told = _run(world, sys.executable, "-c", PYTHON)
    assert told.split("\n") == ["program 3d", "00" * 16, ""]
    assert "rehearsal" not in world.keyvisor("host", "storage").ok()


def test_the_amounts_of_the_page_are_the_defaults() -> None:
    told = re.findall(r"\| `(\w+)` \| ([\d,]+) (MiB|KiB) \|", PAGE)
    units = {"MiB": 1 << 20, "KiB": 1 << 10}
    wanted = amounts(Limits(), StorageLimits())
    assert {name: int(number.replace(",", "")) * units[unit] for name, number, unit in told} == {
        "zone_base": wanted.zone_base,
        "guest_base": wanted.guest_base,
        "guest_base_virtual": wanted.guest_virtual,
        "guest_per_mib": wanted.guest_per_mib,
        "cpu": wanted.cpu,
    }
