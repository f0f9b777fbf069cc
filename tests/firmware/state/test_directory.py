"""The state directory: private, ours alone, and never silently somebody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keyvisor_firmware.errors import StateInUse, StateUnusable
from keyvisor_firmware.state.directory import StateDirectory


def test_it_is_made_private(tmp_path: Path) -> None:
    directory = StateDirectory.open(tmp_path / "a" / "state")
    assert directory.path.stat().st_mode & 0o777 == 0o700
    assert directory.database.stat().st_mode & 0o777 == 0o600
    directory.close()


def test_one_that_is_open_to_others_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o750)
    with pytest.raises(StateUnusable, match="chmod 700") as caught:
        StateDirectory.open(tmp_path / "state")
    assert "\n" not in str(caught.value)


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StateUnusable, match="--state"):
        StateDirectory.open(tmp_path / "state")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_somebody_elses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    os.chown(tmp_path / "state", 1, -1)
    with pytest.raises(StateUnusable, match="another user"):
        StateDirectory.open(tmp_path / "state")


def test_a_second_one_is_refused_until_the_first_is_closed(tmp_path: Path) -> None:
    first = StateDirectory.open(tmp_path / "state")
    with pytest.raises(StateInUse, match="another daemon"):
        StateDirectory.open(tmp_path / "state")
    first.close()
    StateDirectory.open(tmp_path / "state").close()


def test_the_lock_ends_with_the_process_that_held_it(tmp_path: Path) -> None:
    path = tmp_path / "state"
    code = f"""
import os
from pathlib import Path
from keyvisor_firmware.state.directory import StateDirectory
StateDirectory.open(Path({str(path)!r}))
print("open", flush=True)
input()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(StateInUse):
        StateDirectory.open(path)
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    StateDirectory.open(path).close()
