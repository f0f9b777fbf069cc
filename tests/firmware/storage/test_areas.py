"""A sealed value over an area's pages: what is laid out is gathered again, from the pages that it needs and no others."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.errors import RecordBroken, StateUnusable
from keyvisor_firmware.storage.areas import SEAL_OVERHEAD, area_length, gather, scatter
from keyvisor_firmware.storage.pages import PAGE, Span

Content = dict[int, bytes]


class Storage:
    """Pages by address, zeros where there is none; remembers what was read."""

    def __init__(self) -> None:
        self.pages: Content = {}
        self.read_pages: list[int] = []

    def read(self, span: Span) -> bytes:
        addresses = range(span.start, span.end, PAGE)
        self.read_pages += addresses
        return b"".join(self.pages.get(address, bytes(PAGE)) for address in addresses)

    def put(self, sealed: bytes, spans: list[Span]) -> None:
        scattered = scatter(sealed, spans)
        self.pages |= scattered.pages
        for span in scattered.rest:
            for address in range(span.start, span.end, PAGE):
                self.pages.pop(address, None)


@st.composite
def areas(draw: st.DrawFn) -> list[Span]:
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    order = draw(st.permutations(range(len(lengths))))
    return [Span(0x100000 * (1 + place), pages * PAGE) for place, pages in zip(order, lengths, strict=True)]


def room(spans: list[Span]) -> int:
    return sum(span.length for span in spans)


@given(areas(), st.data())
def test_what_is_laid_out_is_gathered_again_whatever_was_there_before(
    spans: list[Span], data: st.DataObject
) -> None:
    storage = Storage()
    assert gather(spans, storage.read) == b""
    for _ in range(3):
        length = data.draw(st.integers(SEAL_OVERHEAD + 1, room(spans) - 4))
        sealed = data.draw(st.binary(min_size=1, max_size=8)) * length
        storage.put(sealed[:length], spans)
        storage.read_pages.clear()
        assert gather(spans, storage.read) == sealed[:length]
        in_order = [address for span in spans for address in range(span.start, span.end, PAGE)]
        needed = in_order[: -(-(length + 4) // PAGE)]
        assert storage.read_pages == needed
        assert set(storage.pages) == set(needed)


def test_the_layout_by_hand() -> None:
    sealed = bytes([7]) * PAGE
    scattered = scatter(sealed, [Span(0x9000, PAGE), Span(0x3000, 3 * PAGE)])
    assert scattered.pages == {
        0x9000: b"\x00\x00\x10\x00" + bytes([7]) * (PAGE - 4),
        0x3000: bytes([7]) * 4 + bytes(PAGE - 4),
    }
    assert scattered.rest == (Span(0x4000, 2 * PAGE),)


@given(areas())
def test_one_byte_too_many_is_refused(spans: list[Span]) -> None:
    fits = bytes(room(spans) - 4)
    assert scatter(fits, spans).rest == ()
    with pytest.raises(StateUnusable, match="needs"):
        scatter(fits + b"\x00", spans)


@pytest.mark.parametrize("length", [1, SEAL_OVERHEAD, 2 * PAGE - 3, 2**32 - 1])
def test_a_length_that_cannot_be_is_refused_before_it_is_read(length: int) -> None:
    storage = Storage()
    storage.pages[0] = length.to_bytes(4, "big") + bytes(PAGE - 4)
    with pytest.raises(RecordBroken, match=str(length)):
        gather([Span(0, 2 * PAGE)], storage.read)
    assert storage.read_pages == [0]


def test_an_area_without_a_page_holds_nothing() -> None:
    with pytest.raises(RecordBroken):
        gather([], Storage().read)


@pytest.mark.parametrize("plain", [0, 1, PAGE - 32, PAGE - 31, 10 * PAGE])
def test_the_length_of_an_area_is_the_least_that_holds_the_value(plain: int) -> None:
    length = area_length(plain)
    assert length % PAGE == 0
    sealed = bytes(plain + SEAL_OVERHEAD)
    scatter(sealed, [Span(0, length)])
    with pytest.raises(StateUnusable):
        scatter(sealed, [Span(0, length - PAGE)])


def test_what_was_laid_out_is_not_in_its_text() -> None:
    assert "secret" not in repr(scatter(b"secret" * 100, [Span(0, PAGE)]))
