"""How a door's socket is made, be it a guest's for applications or one that speaks HTTP. Knows nobody who connects."""

from __future__ import annotations

import socket
from pathlib import Path


def listening(door: Path, backlog: int) -> socket.socket:
    """A listening socket of mode 0600, in the place of one that a dead daemon left. Raises OSError."""
    door.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(door))
        door.chmod(0o600)  # nobody can connect before it listens
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener
