"""`make setup` where it can do nothing by itself: it says which packages are missing, in one line."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def _programs(directory: Path, *names: str) -> str:
    """A PATH with no other programs than these."""
    directory.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found is not None, name
        (directory / name).symlink_to(found)
    return str(directory)


def test_what_is_missing_is_said_in_one_line_where_there_is_no_apt(tmp_path: Path) -> None:
    """A copy of the scripts, so that nothing is set up here."""
    script = shutil.copytree(SCRIPTS, tmp_path / "scripts") / "setup.sh"
    path = _programs(tmp_path / "bin", "bash", "dirname", "id", "python3")
    done = subprocess.run(
        ["bash", script], env={"PATH": path}, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("missing system packages: run `apt-get install ")
    assert line.endswith("` as root, then try again")
    assert {"softhsm2", "opensc", "openssl", "bubblewrap", "p11-kit"} <= set(line.split())
    assert not (tmp_path / ".venv").exists()
