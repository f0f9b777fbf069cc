"""Image files as the host reads them: its parts where they stand, and a way out for every file that is none."""

from __future__ import annotations

import re
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.images import an_image

from keyvisor_guest.errors import ImageUnusable
from keyvisor_guest.hosting.image_loading import load
from keyvisor_guest.wire.se_image_layout import COMPONENTS_AT, HEADER_AT, IPIB_AT, RECORD_AT, find_header
from keyvisor_guest.wire.se_pages import ComponentKind

HOST = ec.derive_private_key(0x1001, ec.SECP521R1())
IMAGE = an_image(HOST, kernel=b"k" * 5000, cmdline="quiet", ramdisk=b"any file").data
FIRST = IPIB_AT + 0x88  # the first component's entry: 8-byte tweak prefix, u64 address, u64 size
ENTRY = 24


def changed(*changes: tuple[int, bytes]) -> bytes:
    data = bytearray(IMAGE)
    for at, value in changes:
        data[at : at + len(value)] = value
    return bytes(data)


def refusal(data: bytes) -> str:
    """It is refused in one line that says the way out; what is found."""
    with pytest.raises(ImageUnusable) as refused:
        load(data)
    found = re.fullmatch(
        r"no image that starts a guest: (.+); start the whole file that the owner built, unchanged",
        str(refused.value),
    )
    assert found, str(refused.value)
    return found[1]


def test_the_parts_are_those_of_the_file() -> None:
    image = load(IMAGE)
    assert image.header == find_header(IMAGE)
    assert [one.placement.kind for one in image.components] == list(ComponentKind)
    at = COMPONENTS_AT
    for component in image.components:
        assert component.placement.address == at
        assert component.pages == IMAGE[at : at + component.placement.size]
        at += component.placement.size
    assert image.end == at == len(IMAGE)


def test_pages_are_not_looked_into() -> None:
    """They are encrypted: the firmware measures them."""
    other = load(changed((COMPONENTS_AT + 9, b"\x5e\x5e")))
    assert other.components[0].pages != load(IMAGE).components[0].pages


def test_a_loader_that_real_images_begin_with_is_let_pass() -> None:
    image = load(changed((0, bytes.fromhex("0008000080010000")), (0x10000, b"\xa7\xf4")))
    assert image == load(IMAGE)


@pytest.mark.parametrize(
    ("at", "length"),
    [(RECORD_AT, 28), (HEADER_AT, len(find_header(IMAGE))), (IPIB_AT, 0x88 + ENTRY * len(ComponentKind))],
    ids=["record", "header", "ipib"],
)
def test_part3_T14_a_file_that_is_cut_within_what_leads_it_is_refused(at: int, length: int) -> None:
    for cut in range(at, at + length + 1):
        refusal(IMAGE[:cut])


@pytest.mark.parametrize("cut", [0, 1, 7, 0x1000, COMPONENTS_AT, COMPONENTS_AT + 4096, len(IMAGE) - 1])
def test_a_file_that_is_cut_elsewhere_is_refused(cut: int) -> None:
    refusal(IMAGE[:cut])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([(RECORD_AT, b"SeImgLny")], "no record `SeImgLnx` at 0xc000"),
        ([(RECORD_AT + 16, b"\x00\x00\x00\x02")], "record is of version 0x2"),
        ([(RECORD_AT + 16, bytes(4))], "record is of version 0x0"),
        ([(RECORD_AT + 8, struct.pack(">Q", 1 << 63))], "ends before the header or the IPIB"),
        ([(RECORD_AT + 20, struct.pack(">Q", len(IMAGE)))], "ends before the header or the IPIB"),
        ([(RECORD_AT + 8, struct.pack(">Q", HEADER_AT + 8))], "no image header at 0x14008"),
        ([(HEADER_AT, b"IBMSecEy")], "no image header at 0x14000"),
        ([(IPIB_AT + 7, b"\x02")], "not one of version 1"),
        ([(IPIB_AT + 0x0C, b"\x04")], "not one of version 1"),
        ([(IPIB_AT + 0x6F, b"\x00")], "not one of version 1"),
        ([(IPIB_AT + 4, b"\x01")], "reserved field of the IPIB"),
        ([(IPIB_AT, bytes(4))], "do not add up"),
        ([(IPIB_AT + 8, b"\xff\xff\xff\xff")], "do not add up"),
        ([(IPIB_AT + 0x74, b"\xff\xff\xff\xff")], "1 to 4 components"),
        ([(IPIB_AT + 0x74, b"\x00\x00\x00\x03")], "do not add up"),
        ([(IPIB_AT + 0x80, struct.pack(">Q", 0x281))], "do not agree on where the header is"),
        ([(FIRST, b"\x00\x04")], "kind 0004 is not known"),
        ([(FIRST, b"\x00\x01")], "kinds do not ascend"),
        ([(FIRST + 8, struct.pack(">Q", COMPONENTS_AT + 1))], "whole pages"),
        ([(FIRST + 16, struct.pack(">Q", 0x1001))], "whole pages"),
        ([(FIRST + 16, bytes(8))], "whole pages"),
        ([(FIRST + 16, struct.pack(">Q", 0x3000))], "overlap"),
        ([(FIRST + 8, struct.pack(">Q", IPIB_AT))], "overlap"),
        ([(FIRST + 8, bytes(8)), (FIRST + 16, struct.pack(">Q", 0x100000))], "overlap"),
        ([(FIRST + 3 * ENTRY + 16, struct.pack(">Q", 1 << 52))], "its parts at"),
        ([(0x2000, b"\x01")], "the byte at 0x2000 is measured by nothing"),
        ([(HEADER_AT - 1, b"\x01")], "measured by nothing"),
        ([(COMPONENTS_AT - 1, b"\x01")], "measured by nothing"),
        ([(0, bytes.fromhex("0008000080010001"))], "measured by nothing"),
    ],
)
def test_each_kind_of_broken_file_says_what_is_wrong(changes: list[tuple[int, bytes]], said: str) -> None:
    assert said in refusal(changed(*changes))


def test_components_out_of_order_are_refused() -> None:
    """Two entries swapped: their addresses do not ascend, and nor do their kinds."""
    first, second = IMAGE[FIRST : FIRST + ENTRY], IMAGE[FIRST + ENTRY : FIRST + 2 * ENTRY]
    assert "kinds do not ascend" in refusal(changed((FIRST, second + first)))
    swapped = first[:8] + second[8:] + second[:8] + first[8:]
    assert "addresses do not ascend" in refusal(changed((FIRST, swapped)))


def test_what_hangs_behind_the_last_page_is_refused_unless_it_is_zero() -> None:
    assert "measured by nothing" in refusal(IMAGE + bytes(100) + b"\x01")
    assert load(IMAGE + bytes(100)) == load(IMAGE)


@pytest.mark.parametrize("before", [0, 0x1000, 0x14000])
def test_a_header_alone_starts_nothing(before: int) -> None:
    """Owners hand such files to others, so that these can make requests for a guest of the image."""
    assert "a header alone starts nothing" in refusal(bytes(before) + find_header(IMAGE))


@pytest.mark.parametrize("data", [b"", b"my image\n", b"\x7fELF" + bytes(1 << 17), bytes(1 << 17)])
def test_what_is_no_image_at_all(data: bytes) -> None:
    assert "no image header" in refusal(data)


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(
        st.tuples(
            st.integers(RECORD_AT, RECORD_AT + 28)
            | st.integers(HEADER_AT, HEADER_AT + 64)
            | st.integers(IPIB_AT, IPIB_AT + 0x88 + 4 * ENTRY)
            | st.integers(0, len(IMAGE)),
            st.binary(min_size=1, max_size=8),
        ),
        max_size=6,
    ),
    cut=st.none() | st.integers(0, len(IMAGE)),
)
def test_whatever_a_file_says_its_parts_lie_within_it(
    changes: list[tuple[int, bytes]], cut: int | None
) -> None:
    """Nothing else is raised, and nothing is read beyond the file."""
    data = changed(*changes)[:cut]
    try:
        image = load(data)
    except ImageUnusable:
        return
    assert image.header in data
    for component in image.components:
        place = component.placement
        assert len(component.pages) == place.size
        assert component.pages == data[place.address : place.end]
    assert image.end <= len(data)
