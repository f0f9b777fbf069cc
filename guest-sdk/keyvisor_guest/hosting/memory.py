"""Host-absolute storage as the host sees it: reserved, mapped into address spaces, read and written.

Addresses and lengths are bytes. Knows nothing of who uses storage for what: a label is a text.
"""

from __future__ import annotations

import base64
from typing import Final

from keyvisor_guest.http import Door
from keyvisor_guest.wire import messages
from keyvisor_guest.wire.messages import MAX_ACCESS, Done

__all__ = ["PAGE", "HostMemory"]

PAGE: Final = 4096  # bytes


class HostMemory:
    """The host's storage. Every method raises Refused, NotRunning, DoorClosed or DoorBroken (errors module).

    An access to a secure page is refused as a program interruption: `kind` is `program`, `code` 3dh.
    """

    def __init__(self, door: Door) -> None:
        self._door = door

    def allocate(self, label: str, length: int, alignment: int = PAGE, at_least: int = 0) -> int:
        """Reserve `length` bytes in one piece at `at_least` or above, and give back the absolute address."""
        body = messages.Allocate(label=label, length=length, alignment=alignment, at_least=at_least)
        return self._door.call("allocate", messages.Allocated, body).absolute

    def free(self, label: str) -> messages.Freed:
        """Give back all that was reserved under `label`, except for what is secure."""
        return self._door.call("free", messages.Freed, messages.FreeFrames(label=label))

    def map(self, asce: int, virtual: int, absolute: int, length: int) -> None:
        """Let the addresses from `virtual` on in the address space `asce` lead to those from `absolute` on."""
        body = messages.MapPages(asce=asce, virtual=virtual, absolute=absolute, length=length)
        self._door.call("map_pages", Done, body)

    def unmap(self, asce: int, virtual: int, length: int) -> None:
        """Let addresses of the address space `asce` lead nowhere."""
        self._door.call("unmap_pages", Done, messages.UnmapPages(asce=asce, virtual=virtual, length=length))

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes from the absolute `address`; more than 16 MiB are read piece by piece."""
        pieces = []
        for offset in range(0, length, MAX_ACCESS):
            body = messages.ReadStorage(address=address + offset, length=min(MAX_ACCESS, length - offset))
            pieces.append(self._door.call("read_storage", messages.StorageContent, body).data)
        return b"".join(pieces)

    def write(self, address: int, data: bytes) -> None:
        """Write `data` to the absolute `address`; more than 16 MiB are written piece by piece."""
        for offset in range(0, len(data), MAX_ACCESS):
            piece = base64.b64encode(data[offset : offset + MAX_ACCESS])
            self._door.call(
                "write_storage", Done, messages.WriteStorage(address=address + offset, data=piece)
            )
