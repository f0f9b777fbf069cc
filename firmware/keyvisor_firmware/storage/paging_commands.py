"""A guest's own pages: its accesses to them, and their way out to the host and back (patents, 1.5).

A page that leaves is encrypted, and its version and tag stay with the firmware in the guest's variable area: only that
page, as it left last, comes back. A page that the guest never had comes as zeros, whatever the host put there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from keyvisor_firmware.commands import Commands
from keyvisor_firmware.errors import AccessRefused, NotFound, PageNotAuthentic, StorageRefused
from keyvisor_firmware.guests.instance import InstanceId
from keyvisor_firmware.storage import paging
from keyvisor_firmware.storage.contents import Contents
from keyvisor_firmware.storage.draft import Draft
from keyvisor_firmware.storage.holdings import Configuration, Holdings
from keyvisor_firmware.storage.host_storage import require_within
from keyvisor_firmware.storage.intervals import Interval
from keyvisor_firmware.storage.lifecycle import GuestCall
from keyvisor_firmware.storage.page_records import PAGE_RECORD_LENGTH, PageRecord, PageState
from keyvisor_firmware.storage.pages import PAGE, Span, is_whole, whole_pages
from keyvisor_firmware.storage.return_codes import StorageCode
from keyvisor_firmware.storage.zone_table import ZoneEntry
from keyvisor_guest.wire.storage_messages import MAX_ACCESS

MAX_CONVERTED: Final = (
    MAX_ACCESS  # bytes of one export or import: storage is sparse, and they are held in memory
)


class PagingCommands:
    """The host's export and import, and the guest's reads and writes."""

    def __init__(self, commands: Commands, holdings: Holdings) -> None:
        self._commands = commands
        self._holdings = holdings

    # --- the host's

    def export_pages(self, handle: int, pages: Span) -> None:
        """Encrypt pages of a guest where they lie: they are the host's to read and to put away. Raises StorageRefused."""
        with self._commands.command("export pages", self._name(handle), **_told(pages)) as work:
            draft = work.storage
            guest = self._paging(draft, handle, GuestCall.EXPORT, pages)
            absolute = self._secure(guest, pages)
            record = guest.known
            exported, records = [], []
            version = record.page_versions
            clear = paging.decrypt_at_rest(
                read_pieces(draft.contents, absolute), record.memory_key, pages.start
            )
            for at in range(0, pages.length, PAGE):
                version += 1
                page, tag = paging.export_page(
                    clear[at : at + PAGE],
                    record.page_key,
                    bytes.fromhex(record.instance),
                    pages.start + at,
                    version,
                )
                exported.append(page)
                records.append(PageRecord(PageState.EXPORTED, version, tag).encode())
            write_pieces(draft.contents, absolute, b"".join(exported))
            draft.put_page_records(guest, page_number(guest, pages), b"".join(records))
            draft.keep(handle, replace(record, page_versions=version))
            draft.release(absolute, scrub=False)

    def import_pages(self, handle: int, pages: Span) -> None:
        """Take pages into a guest, where the host mapped them: those that left as they left, others as zeros.

        Raises StorageRefused; then none of them was taken.
        """
        with self._commands.command("import pages", self._name(handle), **_told(pages)) as work:
            draft = work.storage
            guest = self._paging(draft, handle, GuestCall.IMPORT, pages)
            absolute = self._holdings.host.importable(guest.slot.asce, pages.start, pages.length)
            offered = read_pieces(draft.contents, absolute)
            records = draft.page_records(guest, page_number(guest, pages), pages.length // PAGE)
            clear, taken = [], []
            for number, at in enumerate(range(0, pages.length, PAGE)):
                kept = PageRecord.decode(
                    records[number * PAGE_RECORD_LENGTH : (number + 1) * PAGE_RECORD_LENGTH]
                )
                clear.append(_imported(guest, kept, offered[at : at + PAGE], pages.start + at))
                taken.append(PageRecord(PageState.SECURE, kept.version).encode())
            at_rest = paging.encrypt_at_rest(b"".join(clear), guest.known.memory_key, pages.start)
            write_pieces(draft.contents, absolute, at_rest)
            draft.put_page_records(guest, page_number(guest, pages), b"".join(taken))
            draft.register(guests_own(handle, pages, absolute), scrub=False)

    def _paging(self, draft: Draft, handle: int, call: GuestCall, pages: Span) -> Configuration:
        """The guest, if it is in a state for that, owns such pages, and has its variable area where it was."""
        guest = draft.proceed(handle, call)
        require_own_pages(guest, pages)
        if pages.length > MAX_CONVERTED:
            raise StorageRefused(StorageCode.ADDRESS_UNUSABLE, f"at most {MAX_CONVERTED} bytes at once")
        draft.require_variable(guest)
        return guest

    def _secure(self, guest: Configuration, pages: Span) -> tuple[Span, ...]:
        try:
            return self._holdings.host.guest_pages(
                guest.slot.asce, guest.slot.handle, pages.start, pages.length
            )
        except AccessRefused as error:
            raise StorageRefused(StorageCode.NOT_SECURE, str(error)) from None

    def _name(self, handle: int) -> str | None:
        with self._commands.alone():
            guest = self._holdings.guests.get(handle)
            return None if guest is None else guest.row.name

    # --- the guest's

    def read(self, instance: InstanceId, span: Span) -> bytes:
        """Bytes of the guest's own storage. Raises AccessRefused."""
        with (
            self._commands.judging("guest read", self._guest(instance).row.name),
            self._commands.reading() as records,
        ):
            guest, pages, absolute = self._own(instance, span)
            at_rest = read_pieces(Contents(records), absolute)
        clear = paging.decrypt_at_rest(at_rest, guest.known.memory_key, pages.start)
        return clear[span.start - pages.start : span.end - pages.start]

    def write(self, instance: InstanceId, start: int, data: bytes) -> None:
        """Write bytes of the guest's own storage, all or nothing. Raises AccessRefused."""
        span = Span(start, len(data))
        with self._commands.errand("guest write", self._guest(instance).row.name) as work:
            guest, pages, absolute = self._own(instance, span)
            key = guest.known.memory_key
            clear = bytearray(
                paging.decrypt_at_rest(read_pieces(work.storage.contents, absolute), key, pages.start)
            )
            clear[start - pages.start : span.end - pages.start] = data
            at_rest = paging.encrypt_at_rest(bytes(clear), key, pages.start)
            write_pieces(work.storage.contents, absolute, at_rest)

    def _own(self, instance: InstanceId, span: Span) -> tuple[Configuration, Span, tuple[Span, ...]]:
        """The guest, the whole pages that the span lies in, and where they are."""
        guest = self._guest(instance)
        slot = guest.slot
        first = span.start - span.start % PAGE
        pages = Span(first, whole_pages(span.end) - first)
        require_within(span, slot.storage)
        return (
            guest,
            pages,
            self._holdings.host.guest_pages(slot.asce, slot.handle, pages.start, pages.length),
        )

    def _guest(self, instance: InstanceId) -> Configuration:
        with self._commands.alone():
            guest = self._holdings.of(instance)
            if guest is None:
                raise NotFound("this guest was stopped")
            return guest


def require_own_pages(guest: Configuration, pages: Span) -> None:
    """Raises StorageRefused unless these are whole pages of the guest's own storage."""
    own = guest.slot.storage
    if not is_whole(pages.start, pages.length) or not pages.length:
        raise StorageRefused(StorageCode.ADDRESS_UNUSABLE, "whole pages, at least one")
    if pages.start < own.start or pages.end > own.end:
        raise StorageRefused(StorageCode.ADDRESS_UNUSABLE, f"the guest's storage ends at {own.end:#x}")


def guests_own(handle: int, pages: Span, absolute: Sequence[Span]) -> list[Interval[ZoneEntry]]:
    """What is registered for pages of a guest: `absolute` are their pieces in the order of the guest's addresses."""
    pieces = []
    virtual = pages.start
    for span in absolute:
        pieces.append(Interval(span.start, span.end, ZoneEntry(handle, firmware=False, virtual=virtual)))
        virtual += span.length
    return pieces


def page_number(guest: Configuration, pages: Span) -> int:
    """Which page of the guest's storage the first one is."""
    return (pages.start - guest.slot.storage.start) // PAGE


def read_pieces(contents: Contents, absolute: Sequence[Span]) -> bytes:
    """The bytes of pages that lie in several pieces."""
    return b"".join(contents.read(span) for span in absolute)


def write_pieces(contents: Contents, absolute: Sequence[Span], data: bytes) -> None:
    """Replace them."""
    at = 0
    for span in absolute:
        contents.write(span.start, data[at : at + span.length])
        at += span.length


def _imported(guest: Configuration, kept: PageRecord, offered: bytes, address: int) -> bytes:
    """The page in clear. Raises StorageRefused for one that is secure elsewhere, or is not what left last."""
    record = guest.known
    if kept.state is PageState.SECURE:
        raise StorageRefused(StorageCode.SECURE_ALREADY, f"the guest's page at {address:#x}")
    if kept.state is PageState.NEVER:
        return bytes(PAGE)
    try:
        return paging.import_page(
            offered, kept.tag, record.page_key, bytes.fromhex(record.instance), address, kept.version
        )
    except PageNotAuthentic:
        raise StorageRefused(StorageCode.NOT_AS_EXPORTED, f"the guest's page at {address:#x}") from None


def _told(span: Span) -> dict[str, str]:
    return {"address": f"{span.start:#x}", "length": str(span.length)}
