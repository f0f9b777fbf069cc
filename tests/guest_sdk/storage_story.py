"""The storage of the firmware's story: frames, address spaces, donations. It checks what a host can get wrong.

Kept plain: lists of ranges that are looked through. What is secure refuses the host, and is let go of by destroying.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from keyvisor_guest.wire.qui import StorageQuery, UvCommand
from keyvisor_guest.wire.storage_messages import Freed, Held, Ledger

PAGE = 4096
MIB = 1 << 20
TIB = 1 << 40

QUERY = StorageQuery(
    zone_base=2 * MIB,
    guest_base=0x8000,
    guest_base_virtual=0x3000,
    guest_per_mib=0x1800,
    cpu=0x2000,
    max_guests=8,
    max_address=TIB,
    max_cpu_id=15,
    calls=frozenset({UvCommand.QUERY, UvCommand.INIT}),
    secret_types=0x7FE0_7E00_0000_0000,
    max_association_secrets=10,
    max_retrievable_secrets=20,
)


class NoRoom(Exception):
    """No free piece is as long as that."""


@dataclass(frozen=True)
class Secure:
    """A range that the firmware took: `owner` is the handle of what it serves."""

    start: int
    end: int
    holder: str
    use: str
    owner: int


@dataclass
class StorageStory:
    """Addresses are bytes. `frames` are label, start and end of what the host's allocator gave away."""

    size: int = TIB
    query: StorageQuery = QUERY
    initialised: bool = True
    frames: list[tuple[str, int, int]] = field(default_factory=list)
    secure: list[Secure] = field(default_factory=list)
    spaces: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    pages: dict[int, bytes] = field(default_factory=dict)

    def allocate(self, label: str, length: int, alignment: int, at_least: int) -> int:
        for start, end in self._gaps():
            at = -(-max(start, at_least) // alignment) * alignment
            if at + length <= end:
                self.frames.append((label, at, at + length))
                return at
        raise NoRoom

    def free(self, label: str) -> Freed:
        freed = kept = 0
        for frame in [each for each in self.frames if each[0] == label]:
            self.frames.remove(frame)
            for start, end, taken in self._parts(frame[1], frame[2]):
                if taken:
                    kept += end - start
                    self.frames.append((label, start, end))
                else:
                    freed += end - start
        return Freed(freed=freed, kept=kept)

    def is_reserved(self, label: str, address: int) -> bool:
        return any(text == label and start <= address < end for text, start, end in self.frames)

    def map(self, asce: int, virtual: int, absolute: int, length: int) -> None:
        self.unmap(asce, virtual, length)
        self.spaces[asce].append((virtual, absolute, length))

    def unmap(self, asce: int, virtual: int, length: int) -> None:
        end, left = virtual + length, []
        for at, absolute, size in self.spaces.get(asce, []):
            if at < min(virtual, at + size):
                left.append((at, absolute, min(virtual, at + size) - at))
            if max(end, at) < at + size:
                first = max(end, at)
                left.append((first, absolute + first - at, at + size - first))
        self.spaces[asce] = left

    def translate(self, asce: int, virtual: int, length: int) -> list[tuple[int, int]] | None:
        """Absolute ranges, in the order of the virtual addresses; None where something is not mapped."""
        found, end = [], virtual + length
        for at, absolute, size in sorted(self.spaces.get(asce, [])):
            first, last = max(at, virtual), min(at + size, end)
            if first < last:
                found.append((absolute + first - at, absolute + last - at))
        return found if sum(last - first for first, last in found) == length else None

    def is_secure(self, start: int, end: int) -> bool:
        return any(one.start < end and start < one.end for one in self.secure)

    def take(self, start: int, end: int, holder: str, use: str, owner: int) -> None:
        self.secure.append(Secure(start, end, holder, use, owner))

    def release(self, owner: int) -> None:
        self.secure = [one for one in self.secure if one.owner != owner]

    def read(self, address: int, length: int) -> bytes:
        found = bytearray()
        while len(found) < length:
            page, at = divmod(address + len(found), PAGE)
            found += self.pages.get(page, bytes(PAGE))[at : at + length - len(found)]
        return bytes(found)

    def write(self, address: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            page, at = divmod(address + done, PAGE)
            content = bytearray(self.pages.get(page, bytes(PAGE)))
            part = data[done : done + PAGE - at]
            content[at : at + len(part)] = part
            self.pages[page] = bytes(content)
            done += len(part)

    def ledger(self) -> Ledger:
        gaps = [end - start for start, end in self._gaps()]
        held = [(one.holder, one.use, True, one.start, one.end) for one in self.secure]
        for label, first, last in self.frames:
            held += [
                (label, "host", False, start, end)
                for start, end, taken in self._parts(first, last)
                if not taken
            ]
        lines: dict[tuple[str, str, bool], list[tuple[int, int]]] = {}
        for holder, use, secure, start, end in sorted(held, key=lambda line: line[3]):
            lines.setdefault((holder, use, secure), []).append((start, end))
        return Ledger(
            size=self.size,
            initialised=self.initialised,
            secure=sum(one.end - one.start for one in self.secure),
            free=sum(gaps),
            largest_free=max(gaps, default=0),
            held=[
                Held(
                    holder=holder,
                    use=use,  # type: ignore[arg-type]
                    secure=secure,
                    length=sum(end - start for start, end in found),
                    pieces=len(found),
                    first=found[0][0],
                )
                for (holder, use, secure), found in lines.items()
            ],
        )

    def _gaps(self) -> Iterator[tuple[int, int]]:
        at = 0
        taken = [(start, end) for _, start, end in self.frames]
        for start, end in sorted([*taken, *((one.start, one.end) for one in self.secure)]):
            if at < start:
                yield at, start
            at = max(at, end)
        if at < self.size:
            yield at, self.size

    def _parts(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """The range cut where it becomes secure or stops being so."""
        edges = {start, end}
        for one in self.secure:
            edges |= {edge for edge in (one.start, one.end) if start < edge < end}
        cuts = sorted(edges)
        for first, last in itertools.pairwise(cuts):
            yield first, last, self.is_secure(first, last)
