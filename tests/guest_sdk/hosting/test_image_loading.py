"""The host takes an image file apart as it is, and refuses a file that no firmware could start."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_guest.errors import ImageUnusable
from keyvisor_guest.hosting.image_loading import load
from keyvisor_guest.wire.se_header import parse_header
from keyvisor_guest.wire.se_image_layout import COMPONENTS_AT, HEADER_AT, IPIB_AT, RECORD_AT
from keyvisor_guest.wire.se_pages import ComponentKind, measure

from ...images import an_image

IMAGE = an_image(ec.derive_private_key(0x1001, ec.SECP521R1()), kernel=b"k" * 5000, cmdline="quiet").data
HEADER_LENGTH = 640  # of one host key
COUNT_AT, FIRST_AT = IPIB_AT + 0x74, IPIB_AT + 0x88


def changed(at: int, value: bytes) -> bytes:
    return IMAGE[:at] + value + IMAGE[at + len(value) :]


def test_an_image_is_taken_apart_as_it_stands() -> None:
    loaded = load(IMAGE)
    assert loaded.header == IMAGE[HEADER_AT : HEADER_AT + HEADER_LENGTH]
    kinds = [component.placement.kind for component in loaded.components]
    assert kinds == [ComponentKind.KERNEL, ComponentKind.CMDLINE, ComponentKind.STAGE3B]
    assert loaded.components[0].placement.address == COMPONENTS_AT
    for component in loaded.components:
        place = component.placement
        assert component.pages == IMAGE[place.address : place.end]
    assert loaded.end == len(IMAGE)
    assert measure(loaded.components) == parse_header(loaded.header).measured


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"my image\n",
        IMAGE[:HEADER_AT],
        IMAGE[: HEADER_AT + 0x30],
        IMAGE[HEADER_AT : HEADER_AT + HEADER_LENGTH],
        IMAGE[:-1],
        IMAGE + b"\x01",
        changed(HEADER_AT, b"IBMSecEy"),
        changed(RECORD_AT, b"SeImgLny"),
        changed(RECORD_AT + 8, b"\xff" * 8),
        changed(RECORD_AT + 16, b"\x00\x00\x00\x02"),
        changed(RECORD_AT + 20, b"\xff" * 8),
        changed(0x100, b"\x01"),
        changed(IPIB_AT, b"\xff"),
        changed(IPIB_AT + 4, b"\x01"),
        changed(IPIB_AT + 7, b"\x02"),
        changed(IPIB_AT + 0x0C, b"\x04"),
        changed(COUNT_AT, bytes(4)),
        changed(COUNT_AT, b"\x00\x00\x00\x05"),
        changed(COUNT_AT + 4, bytes(8)),
        changed(COUNT_AT + 12, bytes(8)),
        changed(FIRST_AT, b"\x00\x04"),
        changed(FIRST_AT, b"\x00\x01"),
        changed(FIRST_AT + 15, b"\x01"),
        changed(FIRST_AT + 16, bytes(8)),
        changed(FIRST_AT + 16, b"\xff"),
        changed(FIRST_AT + 8, (COMPONENTS_AT + 0x1000).to_bytes(8, "big")),
        changed(FIRST_AT + 8, HEADER_AT.to_bytes(8, "big")),
    ],
)
def test_what_is_no_image_is_refused_with_the_way_out(data: bytes) -> None:
    with pytest.raises(
        ImageUnusable, match=r"; start the whole file that the owner built, unchanged$"
    ) as refused:
        load(data)
    assert "\n" not in str(refused.value)


@settings(max_examples=50, deadline=None)
@given(cut=st.integers(0, len(IMAGE) - 1))
def test_an_image_that_was_cut_off_anywhere_is_refused(cut: int) -> None:
    with pytest.raises(ImageUnusable):
        load(IMAGE[:cut])


@settings(max_examples=100, deadline=None)
@given(at=st.integers(0, len(IMAGE) - 1), bits=st.integers(1, 255))
def test_a_changed_byte_is_refused_or_handed_on_for_the_firmware_to_measure(at: int, bits: int) -> None:
    before = load(IMAGE)
    try:
        after = load(changed(at, bytes([IMAGE[at] ^ bits])))
    except ImageUnusable:
        return
    assert (after.header, after.components) != (before.header, before.components)
