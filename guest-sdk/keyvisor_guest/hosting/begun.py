"""One start of a guest as far as it is: the storage that was reserved, what was created, and how all of it is undone.

Storage is given back after what it was given for is destroyed, and not where that failed. Knows no order of calls.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from keyvisor_guest.errors import Refused, SdkError
from keyvisor_guest.hosting.labels import label_of
from keyvisor_guest.hosting.memory import PAGE

if TYPE_CHECKING:
    from keyvisor_guest.host import Host

__all__ = ["Begun", "Piece"]

_GONE: Final = {("uv", 0x20), ("uv", 0x21)}  # no guest, no CPU has that handle
_LOWCORE: Final = 2 * PAGE  # nothing of a guest's may lie there


@dataclass(frozen=True, slots=True)
class Piece:
    """Storage in an address space: `length` bytes from `address` on stand at `absolute`."""

    address: int
    absolute: int
    length: int


@dataclass(slots=True)
class Begun:
    """What has been done for one start of the guest `name`: handles of what was created, labels, the address space."""

    host: Host
    name: str
    guest: int | None = None
    cpus: list[int] = field(default_factory=list)
    _asce: int | None = None
    _token: str = ""
    _labels: list[str] = field(default_factory=list)

    def try_anew(self) -> int:
        """Begin with labels that nobody else has, and reserve an address space."""
        self._token = secrets.token_hex(4)
        self._asce = self.reserve(PAGE)
        return self._asce

    def reserve(self, length: int, alignment: int = PAGE, purpose: str = "") -> int:
        """Reserve storage in one piece, and give back its absolute address."""
        label = label_of(self.name, self._token, purpose)
        if label not in self._labels:
            self._labels.append(label)
        return self.host.memory.allocate(label, length, alignment, _LOWCORE)

    def write(self, absolute: int, data: bytes, purpose: str = "") -> None:
        """Write into what was reserved. Raises Refused where another host has given it back: it may be somebody else's."""
        self.host.memory.write(absolute, data, label_of(self.name, self._token, purpose))

    def map_new(self, asce: int, address: int, length: int) -> list[Piece]:
        """Reserve storage for addresses of `asce` and map it: in one piece where there is one, else the largest there are."""
        pieces = list(self._scattered(address, length))
        for piece in pieces:
            # Another host may have cleared up after this one, and the address space may be somebody else's by now.
            label = label_of(self.name, self._token)
            self.host.memory.map(asce, piece.address, piece.absolute, piece.length, label)
        return pieces

    def _scattered(self, address: int, length: int) -> Iterator[Piece]:
        end = address + length
        while address < end:
            wanted = end - address
            try:
                absolute = self.reserve(wanted)
            except Refused:
                ledger = self.host.storage()
                wanted = min(wanted, ledger.largest_free // PAGE * PAGE)
                if not wanted or ledger.free < end - address:
                    raise
                absolute = self.reserve(wanted)
            yield Piece(address, absolute, wanted)
            address += wanted

    def let_go(self, purpose: str) -> None:
        """Give back what was reserved for `purpose`."""
        label = label_of(self.name, self._token, purpose)
        if label in self._labels:
            self.host.memory.free(label)
            self._labels.remove(label)

    def let_go_of_all(self) -> None:
        """Give back all that was reserved, except for what is secure."""
        while self._labels:
            self.host.memory.free(self._labels[-1])
            self._labels.pop()

    def undo(self, *, sure: bool) -> str | None:
        """Destroy what was created, then give back its storage. What is to be told where that failed, else None.

        `sure`: every call was answered. Otherwise something may have been created whose handle never came.
        """
        try:
            if not sure:
                self._look_up()
            for cpu in reversed(self.cpus):
                _unless_gone(self.host.destroy_cpu, cpu)
            if self.guest is not None:
                _unless_gone(self.host.destroy_guest, self.guest)
            self.let_go_of_all()
        except SdkError as refusal:
            return (
                f"undoing it failed too ({str(refusal).splitlines()[0]}): what was given to guest `{self.name}` "
                f"stays allocated; try `keyvisor host stop {self.name}`"
            )
        return None

    def _look_up(self) -> None:
        for guest in self.host.guests():
            if guest.name == self.name and guest.asce == self._asce:
                self.guest = guest.handle
                self.cpus = list(guest.cpu_handles)


def _unless_gone(destroy: Callable[[int], None], handle: int) -> None:
    """Destroy what has this handle, unless another host did."""
    try:
        destroy(handle)
    except Refused as refused:
        if (refused.kind, refused.code) not in _GONE:
            raise
