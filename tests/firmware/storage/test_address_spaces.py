"""Address spaces against a page table that has one entry for each page."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.storage.address_spaces import AddressSpaces, Frame
from keyvisor_firmware.storage.intervals import Interval
from keyvisor_firmware.storage.pages import PAGE, Span

PAGES = st.integers(0, 15)
COUNTS = st.integers(1, 6)
STEPS = st.tuples(st.sampled_from([0x1000, 0x2000]), PAGES, COUNTS, st.none() | PAGES)  # None: unmapped


@given(
    st.lists(STEPS, max_size=20),
    st.sampled_from([0x1000, 0x2000]),
    st.integers(0, 20 * PAGE),
    st.integers(0, 4 * PAGE),
)
def test_a_translation_is_what_each_byte_is_mapped_to(
    steps: list[tuple[int, int, int, int | None]], asce: int, start: int, length: int
) -> None:
    spaces = AddressSpaces()
    shadow: dict[tuple[int, int], int] = {}
    for space, page, count, frame in steps:
        if frame is None:
            spaces.apply(space, spaces.unmapping(space, Span(page * PAGE, count * PAGE)))
        else:
            spaces.apply(space, spaces.mapping(space, page * PAGE, Span(frame * PAGE, count * PAGE)))
        for n in range(count):
            shadow.pop((space, page + n), None)
            if frame is not None:
                shadow[space, page + n] = frame + n
    assert spaces.spaces() == tuple(sorted({space for space, _ in shadow}))
    probes = {start, *range(start - start % PAGE, start + length, PAGE), start + length - 1}
    probes = {max(probe, start) for probe in probes} if length else set()
    mapped = [shadow.get((asce, probe // PAGE)) for probe in sorted(probes)]
    found = spaces.translate(asce, start, length)
    if None in mapped:
        assert found is None
        return
    assert found is not None
    assert sum(span.length for span in found) == length
    assert all(one.end != other.start for one, other in itertools.pairwise(found))
    virtual = start
    for span in found:
        for offset in (0, span.length - 1):
            at = virtual + offset
            assert span.start + offset == shadow[asce, at // PAGE] * PAGE + at % PAGE
        virtual += span.length


def test_scattered_frames_come_in_the_order_of_the_addresses() -> None:
    spaces = AddressSpaces()
    for virtual, absolute in ((0x0000, 0x9000), (0x1000, 0x3000), (0x2000, 0x4000)):
        spaces.apply(0x1000, spaces.mapping(0x1000, virtual, Span(absolute, PAGE)))
    assert spaces.translate(0x1000, 0x800, 0x1800) == (Span(0x9800, 0x800), Span(0x3000, 0x1000))
    assert spaces.translate(0x1000, 0, 3 * PAGE + 1) is None
    assert spaces.translate(0x2000, 0, 1) is None
    assert spaces.translate(0x2000, 0, 0) == ()


def test_making_a_change_does_not_make_it_and_a_space_without_pages_is_none() -> None:
    spaces = AddressSpaces({0x5000: [Interval(0, PAGE, Frame(0x7000))], 0x6000: []})
    assert spaces.spaces() == (0x5000,)
    change = spaces.mapping(0x5000, PAGE, Span(0x8000, PAGE))
    assert list(spaces.intervals(0x5000)) == [Interval(0, PAGE, Frame(0x7000))]
    spaces.apply(0x5000, change)
    assert list(spaces.intervals(0x5000)) == [Interval(0, 2 * PAGE, Frame(0x7000))]
    with pytest.raises(ValueError, match="is to be"):
        spaces.apply(0x6000, change)
    assert spaces.spaces() == (0x5000,)
    for asce in (0x5000, 0x6000):
        spaces.apply(asce, spaces.unmapping(asce, Span(0, 1 << 40)))
    assert spaces.spaces() == ()
    assert spaces.translate(0x5000, 0, PAGE) is None


def test_a_mapping_without_length_is_none() -> None:
    with pytest.raises(ValueError, match="empty"):
        AddressSpaces().mapping(0x1000, 0, Span(0, 0))


def test_terabytes_are_mapped_and_translated_in_one_piece() -> None:
    spaces = AddressSpaces()
    spaces.apply(0, spaces.mapping(0, 1 << 50, Span(1 << 40, 1 << 41)))
    assert spaces.translate(0, (1 << 50) + 5, 1 << 40) == (Span((1 << 40) + 5, 1 << 40),)
