"""Host-absolute storage as the host, a guest, and the firmware may see it: questions, no changes.

Each question costs as many steps as there are ranges in what it is about, however many pages those are. Knows no content.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from keyvisor_firmware.errors import AccessRefused, StorageRefused
from keyvisor_firmware.storage.address_spaces import AddressSpaces, Frame
from keyvisor_firmware.storage.frames import Frames
from keyvisor_firmware.storage.intervals import Interval
from keyvisor_firmware.storage.pages import LOWCORE, Span
from keyvisor_firmware.storage.return_codes import AccessCode, StorageCode
from keyvisor_firmware.storage.zone_table import ZoneEntry, ZoneTable

__all__ = ["HostStorage", "require_within"]


@dataclass(frozen=True, slots=True)
class _Seen:
    """Virtual addresses that are all alike: no page is mapped, or all pages are of one owner, or of none."""

    virtual: int
    absolute: Span | None
    entry: ZoneEntry | None


@dataclass(frozen=True, slots=True)
class HostStorage:
    """`size` bytes of storage, the zone-security table, the host's address spaces, and its reserved frames."""

    size: int
    zone: ZoneTable
    spaces: AddressSpaces
    frames: Frames

    def require_inside(self, span: Span) -> None:
        """Raise AccessRefused (addressing) where a byte of `span` is not in storage."""
        require_within(span, Span(0, self.size))

    def require_host_access(self, span: Span) -> None:
        """Raise AccessRefused where the host may not touch a byte of `span`: it is secure, or there is none."""
        self.require_inside(span)
        for interval in self.zone.clipped(span.start, span.end):
            raise AccessRefused(AccessCode.SECURE_STORAGE_ACCESS, interval.start)

    def guest_pages(self, asce: int, domain: int, start: int, length: int) -> tuple[Span, ...]:
        """The absolute spans, in order, of `length` bytes from `start` that the guest `domain` touches; any alignment.

        Raises AccessRefused at the first address of the guest that is not mapped or not secure (3e), or that leads to a
        page which is not the guest's own under that address (3f). That `start` is in the guest's storage is not looked at.
        """
        spans: list[Span] = []
        for seen in self._seen(asce, start, length):
            if seen.absolute is None or seen.entry is None:
                raise AccessRefused(AccessCode.NON_SECURE_STORAGE_ACCESS, seen.virtual)
            if seen.entry != ZoneEntry(domain, False, seen.virtual):
                raise AccessRefused(AccessCode.SECURE_STORAGE_VIOLATION, seen.virtual)
            spans.append(seen.absolute)
        return _joined(spans)

    def require_unchanged(self, asce: int, domain: int, virtual: Span, firmware: bool) -> tuple[Span, ...]:
        """The absolute spans, in order, of the pages that `virtual` leads to.

        Raises StorageRefused unless each is registered for `domain` under exactly that virtual address, as the firmware's
        or the guest's own.
        """
        spans: list[Span] = []
        for seen in self._seen(asce, virtual.start, virtual.length):
            if seen.absolute is None or seen.entry != ZoneEntry(domain, firmware, seen.virtual):
                raise StorageRefused(
                    StorageCode.MAPPING_CHANGED, f"from virtual address {seen.virtual:#x} on"
                )
            spans.append(seen.absolute)
        return _joined(spans)

    def importable(self, asce: int, start: int, length: int) -> tuple[Span, ...]:
        """The absolute spans, in order, of pages of the host's that `length` bytes from `start` lead to.

        Raises StorageRefused for what is not mapped, secure, mapped twice, or not for guests. Whether the guest has a
        page under one of the addresses already is not looked at.
        """
        spans = self.spaces.translate(asce, start, length)
        if spans is None:
            raise StorageRefused(StorageCode.NOT_TRANSLATED, f"between {start:#x} and {start + length:#x}")
        if wrong := self.secure_in(spans):
            raise StorageRefused(StorageCode.SECURE_ALREADY, wrong)
        if wrong := self.outside_in(spans) or self.twice_in(spans):
            raise StorageRefused(StorageCode.ADDRESS_UNUSABLE, wrong)
        return spans

    def secure_in(self, spans: tuple[Span, ...]) -> str:
        """What of `spans` is secure, in words; empty where nothing is."""
        for span in spans:
            for interval in self.zone.clipped(span.start, span.end):
                return f"the storage from {interval.start:#x} on is secure already"
        return ""

    def outside_in(self, spans: tuple[Span, ...]) -> str:
        """What of `spans` no donation and no guest can have, in words: outside of storage, or lowcore."""
        for span in spans:
            if span.start < LOWCORE or span.end > self.size:
                return f"{span.start:#x} to {span.end:#x} is not between {LOWCORE:#x} and {self.size:#x}"
        return ""

    def twice_in(self, spans: tuple[Span, ...]) -> str:
        """What is in `spans` more than once, in words."""
        end = 0
        for span in sorted(spans):
            if span.start < end:
                return f"the storage from {span.start:#x} on is offered twice"
            end = span.end
        return ""

    def _seen(self, asce: int, start: int, length: int) -> Iterator[_Seen]:
        """`length` bytes from `start`, ascending, in pieces that are all alike."""
        position = start
        for piece in self.spaces.pieces(asce, start, length):
            if position < piece.start:
                yield _Seen(position, None, None)
            yield from self._owners(piece)
            position = piece.end
        if position < start + length:
            yield _Seen(position, None, None)

    def _owners(self, piece: Interval[Frame]) -> Iterator[_Seen]:
        position, end = piece.value.absolute, piece.value.absolute + piece.length
        virtual = piece.start - position  # to be added to an absolute address
        for owned in self.zone.clipped(position, end):
            if position < owned.start:
                yield _Seen(virtual + position, Span(position, owned.start - position), None)
            yield _Seen(virtual + owned.start, owned.span, owned.value)
            position = owned.end
        if position < end:
            yield _Seen(virtual + position, Span(position, end - position), None)


def require_within(span: Span, bounds: Span) -> None:
    """Raise AccessRefused (addressing) at the first byte of `span` that is not in `bounds`; no bytes are always inside."""
    if span.length <= 0:
        return
    if not bounds.start <= span.start < bounds.end:
        raise AccessRefused(AccessCode.ADDRESSING, span.start)
    if span.end > bounds.end:
        raise AccessRefused(AccessCode.ADDRESSING, bounds.end)


def _joined(spans: list[Span]) -> tuple[Span, ...]:
    """`spans` in their order, those as one that adjoin."""
    joined: list[Span] = []
    for span in spans:
        if joined and joined[-1].end == span.start:
            joined[-1] = Span(joined[-1].start, joined[-1].length + span.length)
        else:
            joined.append(span)
    return tuple(joined)
