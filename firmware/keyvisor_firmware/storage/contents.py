"""What stands in host-absolute storage, within one transaction: any bytes of it, read, written and cleared.

Storage is sparse: a page that nobody wrote is zeros and costs nothing. Knows rows of pages, and nothing of who may see
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from keyvisor_firmware.state.records import Records
from keyvisor_firmware.storage.pages import PAGE, Span, whole_pages

_ZEROS: Final = bytes(PAGE)


class Contents:
    """Storage as the rows of one transaction have it."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def read(self, span: Span) -> bytes:
        """The bytes of `span`, at any alignment."""
        start = span.start - span.start % PAGE
        end = whole_pages(span.end)
        pages = self._records.pages(start, end)
        whole = b"".join(pages.get(address, _ZEROS) for address in range(start, end, PAGE))
        return whole[span.start - start : span.end - start]

    def write(self, start: int, data: bytes) -> None:
        """Write bytes at any alignment; what stands around them in their pages stays."""
        if not data:
            return
        end = start + len(data)
        first, last = start - start % PAGE, whole_pages(end)
        whole = self.read(Span(first, start - first)) + data + self.read(Span(end, last - end))
        pages = {first + at: whole[at : at + PAGE] for at in range(0, len(whole), PAGE)}
        self.clear(Span(first, last - first))
        self._records.put_pages(_filled(pages), fresh=True)

    def put(self, pages: Mapping[int, bytes]) -> None:
        """Replace whole pages, by address, wherever they are."""
        filled = _filled(pages)
        self._records.put_pages(filled)
        for address in pages.keys() - filled.keys():
            self._records.clear_pages(address, address + PAGE)

    def clear(self, span: Span) -> None:
        """Whole pages become zeros."""
        self._records.clear_pages(span.start, span.end)


def _filled(pages: Mapping[int, bytes]) -> dict[int, bytes]:
    return {address: content for address, content in pages.items() if content != _ZEROS}
