"""The sockets of all doors: private from the start, in the place of what a dead daemon left."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from keyvisor_firmware.broker.listening import listening


def test_a_door_is_private_and_can_be_knocked_at(tmp_path: Path) -> None:
    door = tmp_path / "door"
    with listening(door, 8) as listener, socket.socket(socket.AF_UNIX) as knock:
        assert stat.S_IMODE(door.stat().st_mode) == 0o600
        knock.connect(str(door))
        listener.accept()[0].close()


def test_what_a_dead_daemon_left_is_replaced(tmp_path: Path) -> None:
    door = tmp_path / "door"
    listening(door, 8).close()  # the file stays
    with socket.socket(socket.AF_UNIX) as knock, pytest.raises(ConnectionRefusedError):
        knock.connect(str(door))
    with listening(door, 8), socket.socket(socket.AF_UNIX) as knock:
        knock.connect(str(door))


def test_a_door_that_cannot_be_leaves_no_open_socket(tmp_path: Path) -> None:
    """Warnings are errors: a socket that is forgotten would be one."""
    with pytest.raises(FileNotFoundError):
        listening(tmp_path / "nowhere" / "door", 8)
    with pytest.raises(OSError, match="too long"):
        listening(tmp_path / ("x" * 120), 8)
