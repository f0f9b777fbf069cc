"""What the host does with its own storage: reserve it, map it, read it and write it.

The allocator and the address spaces are the host's, kept here as a host's kernel would keep them: the firmware trusts
none of it, and looks at a mapping only to find that it is not what it was. An access to a secure page ends in a program
interruption; that is recorded, what succeeds is not.
"""

from __future__ import annotations

from typing import Final

from keyvisor_firmware.commands import Commands
from keyvisor_firmware.errors import Conflict, Malformed
from keyvisor_firmware.storage.contents import Contents
from keyvisor_firmware.storage.holdings import Holdings
from keyvisor_firmware.storage.pages import Span, is_whole
from keyvisor_guest.wire.message import MAX_ADDRESS

_EVERYTHING: Final = Span(0, MAX_ADDRESS * 2)


class HostCommands:
    """The host's own. Addresses and lengths are bytes."""

    def __init__(self, commands: Commands, holdings: Holdings) -> None:
        self._commands = commands
        self._holdings = holdings

    def allocate(self, label: str, length: int, alignment: int, at_least: int) -> int:
        """Reserve storage in one piece; its address. Raises Conflict where there is none, Malformed for odd numbers."""
        with self._commands.errand("allocate", None, label=label) as work:
            host = self._holdings.host
            found = host.frames.allocating(label, length, alignment, at_least, host.zone, host.size)
            work.storage.change_frames(found.change)
            return found.span.start

    def free(self, label: str) -> tuple[int, int]:
        """Give back all that is reserved under a label and not secure, cleared, and the address spaces that it names.

        The page that names a guest's address space stays too: another host would take it for a space of its own. Bytes
        that are free again, and bytes that stay.
        """
        with self._commands.errand("free", None, label=label) as work:
            host = self._holdings.host
            reserved = host.frames.labelled(label)
            in_use = {guest.slot.asce for guest in self._holdings.guests.values()}
            freeing = host.frames.freeing(label, host.zone, in_use)
            work.storage.change_frames(freeing.change)
            for span in freeing.spans:
                work.storage.contents.clear(span)
            for asce in host.spaces.spaces():
                if asce not in in_use and any(span.start <= asce < span.end for span in reserved):
                    work.storage.change_space(asce, host.spaces.unmapping(asce, _EVERYTHING))
            return freeing.freed, freeing.kept

    def map(self, asce: int, virtual: int, absolute: Span, label: str | None = None) -> None:
        """Let storage appear in an address space; what was there is gone from it. Raises Malformed, AccessRefused.

        With a label, raises Conflict where the address space's page is not reserved under it (any more): of hosts that
        clear up after one another, none may map into what is another's by now.
        """
        with self._commands.errand("map", None, asce=f"{asce:#x}") as work:
            _require_pages(asce, virtual, absolute.start, absolute.length)
            self._holdings.host.require_inside(absolute)
            reserved = self._holdings.host.frames.at(asce)
            if label is not None and (reserved is None or reserved.value.text != label):
                raise Conflict(
                    f"address space {asce:#x} is not reserved under `{label}` any more: begin again"
                )
            work.storage.change_space(asce, self._holdings.host.spaces.mapping(asce, virtual, absolute))

    def unmap(self, asce: int, virtual: Span) -> None:
        """Take storage out of an address space. Raises Malformed."""
        with self._commands.errand("unmap", None, asce=f"{asce:#x}") as work:
            _require_pages(asce, virtual.start, virtual.length)
            work.storage.change_space(asce, self._holdings.host.spaces.unmapping(asce, virtual))

    def read(self, span: Span) -> bytes:
        """The bytes of storage. Raises AccessRefused: 05 there is none, 3d some of it is secure."""
        with self._commands.judging("host read", None), self._commands.reading() as records:
            self._holdings.host.require_host_access(span)
            return Contents(records).read(span)

    def write(self, start: int, data: bytes, label: str | None = None) -> None:
        """Write storage, all of it or nothing. Raises AccessRefused: 05 there is none, 3d some of it is secure.

        With a label, raises Conflict where some of it is not reserved under it (any more), as `map` does.
        """
        with self._commands.errand("host write", None, address=f"{start:#x}") as work:
            span = Span(start, len(data))
            self._holdings.host.require_host_access(span)
            if label is not None and not self._holdings.host.frames.is_labelled(span, label):
                raise Conflict(
                    f"storage from {start:#x} on is not reserved under `{label}` any more: begin again"
                )
            work.storage.contents.write(start, data)


def _require_pages(*numbers: int) -> None:
    if not is_whole(*numbers) or not numbers[-1]:
        raise Malformed("address spaces, addresses and lengths are whole pages of 4096 bytes, at least one")
