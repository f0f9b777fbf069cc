"""Host-absolute storage as the host sees it: reserved, mapped into address spaces, read and written.

Addresses and lengths are bytes. Knows nothing of who uses storage for what: a label is a text.
"""

from __future__ import annotations

from typing import Final

from keyvisor_guest.asking import asking
from keyvisor_guest.storage import Storage, encoded_pieces
from keyvisor_guest.wire import storage_messages
from keyvisor_guest.wire.messages import Done

__all__ = ["PAGE", "HostMemory"]

PAGE: Final = 4096  # bytes


class HostMemory(Storage):
    """The host's storage. Every method raises Refused, NotRunning, DoorClosed or DoorBroken (errors module)."""

    def allocate(self, label: str, length: int, alignment: int = PAGE, at_least: int = 0) -> int:
        """Reserve `length` bytes in one piece at `at_least` or above, and give back the absolute address."""
        body = asking(
            storage_messages.Allocate, label=label, length=length, alignment=alignment, at_least=at_least
        )
        return self._door.call("allocate", storage_messages.Allocated, body).absolute

    def free(self, label: str) -> storage_messages.Freed:
        """Give back all that was reserved under `label`, except for what is secure, and a guest's address space."""
        return self._door.call(
            "free", storage_messages.Freed, asking(storage_messages.FreeFrames, label=label)
        )

    def write(self, address: int, data: bytes, label: str | None = None) -> None:
        """Write `data` from `address` on; more than 16 MiB are written piece by piece.

        With `label`, refused where some of the piece is not reserved under it any more.
        """
        for offset, piece in encoded_pieces(data):
            body = asking(
                storage_messages.WriteHostStorage, address=address + offset, data=piece, label=label
            )
            self._door.call("write_storage", Done, body)

    def map(self, asce: int, virtual: int, absolute: int, length: int, label: str | None = None) -> None:
        """Let the addresses from `virtual` on in the address space `asce` lead to those from `absolute` on.

        With `label`, refused where the page that names the address space is not reserved under it any more.
        """
        body = asking(
            storage_messages.MapPages,
            asce=asce,
            virtual=virtual,
            absolute=absolute,
            length=length,
            label=label,
        )
        self._door.call("map_pages", Done, body)

    def unmap(self, asce: int, virtual: int, length: int) -> None:
        """Let addresses of the address space `asce` lead nowhere."""
        self._door.call(
            "unmap_pages",
            Done,
            asking(storage_messages.UnmapPages, asce=asce, virtual=virtual, length=length),
        )
