"""Storage behind a door, read and written in pieces that the door takes.

Knows no kind of address: at the host's door they are host-absolute, at a guest's they are the guest's own.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

from keyvisor_guest.asking import asking
from keyvisor_guest.http import Door
from keyvisor_guest.wire.messages import Done
from keyvisor_guest.wire.storage_messages import MAX_ACCESS, ReadStorage, StorageContent, WriteStorage

__all__ = ["Storage"]


class Storage:
    """A door's storage. Every method raises Refused, NotRunning, DoorClosed or DoorBroken (errors module).

    A refused access is a program interruption: `kind` is `program`, `code` 3dh (a secure page, to the host), 3eh (a page
    that is not secure, to a guest) or 3fh (one that is not this guest's, or whose mapping changed).
    """

    def __init__(self, door: Door) -> None:
        self._door = door

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes from `address`; more than 16 MiB are read piece by piece."""
        pieces = []
        for offset in range(0, length, MAX_ACCESS):
            body = asking(ReadStorage, address=address + offset, length=min(MAX_ACCESS, length - offset))
            pieces.append(self._door.call("read_storage", StorageContent, body).data)
        return b"".join(pieces)

    def write(self, address: int, data: bytes) -> None:
        """Write `data` from `address` on; more than 16 MiB are written piece by piece."""
        for offset, piece in encoded_pieces(data):
            self._door.call("write_storage", Done, asking(WriteStorage, address=address + offset, data=piece))


def encoded_pieces(data: bytes) -> Iterator[tuple[int, bytes]]:
    """`data` in pieces that a door takes, base64, each with its offset."""
    for offset in range(0, len(data), MAX_ACCESS):
        yield offset, base64.b64encode(data[offset : offset + MAX_ACCESS])
