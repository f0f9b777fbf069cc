"""The state directory: its layout, its protection, and the lock that keeps a second daemon out.

Knows paths and permissions, not what is kept there.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Self

from keyvisor_firmware.errors import StateInUse, StateUnusable

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class StateDirectory:
    """An open state directory: nobody else's, mode 0700, and ours alone until `close`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the directory, made if it is new. Raises StateUnusable, StateInUse."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _require_private(path)
            return cls(path, _locked(path))
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise StateUnusable(
                f"the state directory `{path}` cannot be used: {why}; choose another --state"
            ) from None

    @property
    def database(self) -> Path:
        """The database's file, made empty where it is missing so that its mode is ours to choose."""
        path = self.path / "state.db"
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return path

    @property
    def operator_token(self) -> Path:
        """The operator token's directory."""
        return self.path / "operator"

    @property
    def partitions(self) -> Path:
        """The directory of the key partitions."""
        return self.path / "partitions"

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._lock)


def _require_private(path: Path) -> None:
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise StateUnusable(f"the state directory `{path}` belongs to another user: choose another --state")
    if found.st_mode & _OTHERS:
        raise StateUnusable(f"the state directory `{path}` is open to others: `chmod 700 {path}` first")


def _locked(path: Path) -> int:
    """A descriptor with the lock, which the kernel gives back when this process ends, however it ends."""
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StateInUse(
            f"another daemon runs on the state directory `{path}`: stop it, or choose another --state"
        ) from None
    return descriptor
