"""Who is served at the door."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from keyvisor_firmware.broker.peers import StrangePeer, require_own_peer


class PeerOf(socket.socket):
    """A socket whose other end is held by a user."""

    uid = 0

    def getsockopt(self, *_: int) -> bytes:  # type: ignore[override]  # only this one is asked for
        return struct.pack("=iII", 1234, self.uid, 100)


def test_our_own_process_is_served() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        require_own_peer(ours)


@pytest.mark.parametrize("uid", [0, os.geteuid()])
def test_root_and_our_own_user_are_served(uid: int) -> None:
    with PeerOf() as channel:
        channel.uid = uid
        require_own_peer(channel)


@pytest.mark.parametrize("uid", [1, os.geteuid() + 1, 65534, 2**32 - 1])
def test_nobody_else_is(uid: int) -> None:
    with PeerOf() as channel:
        channel.uid = uid
        with pytest.raises(StrangePeer, match=f"user {uid} may not"):
            require_own_peer(channel)
