"""Who is at the other end of a Unix socket: only the user that the firmware runs as, and root, are served."""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

from keyvisor_firmware.broker.errors import BrokerError

_CREDENTIALS: Final = struct.Struct("=iII")  # pid, uid, gid of SO_PEERCRED


class StrangePeer(BrokerError):
    """Another user connected."""


def require_own_peer(channel: socket.socket) -> None:
    """Raises StrangePeer unless the peer is our own user or root."""
    data = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(data)
    if uid not in (0, os.geteuid()):
        raise StrangePeer(f"user {uid} may not use this door")
