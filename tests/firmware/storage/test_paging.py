"""What a host has of a guest's pages: bytes that tell nothing, and that come back only as what left last."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.errors import PageNotAuthentic
from keyvisor_firmware.storage.paging import decrypt_at_rest, encrypt_at_rest, export_page, import_page

PAGE = 4096
KEY = bytes(range(64))
MEMORY_KEY = bytes(range(64))
INSTANCE = b"\xab" * 16
CLEAR = b"guest" + bytes(PAGE - 5)

contents = st.binary(min_size=1, max_size=64).map(lambda seed: (seed * PAGE)[:PAGE])


# --- at rest


def test_at_rest_a_page_is_as_the_standard_says() -> None:
    # IEEE 1619-2007, vector 10: AES-256-XTS, data unit ff, the tweak there little-endian in sixteen bytes.
    key = bytes.fromhex(
        "2718281828459045235360287471352662497757247093699959574966967627"
        "3141592653589793238462643383279502884197169399375105820974944592"
    )
    address = 0xFF << 120
    pages = bytes(range(256)) * 16
    encrypted = encrypt_at_rest(pages, key, address)
    assert encrypted[:32].hex() == "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b"
    assert decrypt_at_rest(encrypted, key, address) == pages


@given(st.lists(contents, min_size=1, max_size=4), st.integers(0, 2**40))
def test_at_rest_every_page_stands_for_itself(pages: list[bytes], number: int) -> None:
    address = number * PAGE
    together = encrypt_at_rest(b"".join(pages), MEMORY_KEY, address)
    alone = [encrypt_at_rest(page, MEMORY_KEY, address + at * PAGE) for at, page in enumerate(pages)]
    assert together == b"".join(alone)
    assert decrypt_at_rest(together, MEMORY_KEY, address) == b"".join(pages)


def test_at_rest_equal_pages_look_different_and_belong_to_their_address() -> None:
    stored = encrypt_at_rest(CLEAR * 2, MEMORY_KEY, 0)
    assert stored[:PAGE] != stored[PAGE:]
    assert b"guest" not in stored
    assert decrypt_at_rest(stored[PAGE:], MEMORY_KEY, 0) != CLEAR
    assert decrypt_at_rest(stored[PAGE:], MEMORY_KEY[::-1], PAGE) != CLEAR


@pytest.mark.parametrize(
    ("pages", "key"), [(CLEAR[1:], MEMORY_KEY), (CLEAR, KEY[:32] * 2), (CLEAR, KEY[:32])]
)
def test_at_rest_nothing_but_whole_pages_under_a_key_of_two_halves(pages: bytes, key: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        encrypt_at_rest(pages, key, 0)


# --- exported


def test_an_export_is_siv_with_this_data() -> None:
    exported, tag = export_page(CLEAR, KEY, INSTANCE, 0x7000, 0x0102)
    bound_to = [INSTANCE, bytes.fromhex("0000000000007000"), bytes.fromhex("0000000000000102")]
    assert tag + exported == AESSIV(KEY).encrypt(CLEAR, bound_to)
    assert (len(exported), len(tag)) == (PAGE, 16)
    assert b"guest" not in exported


@dataclasses.dataclass(frozen=True)
class Export:
    exported: bytes
    tag: bytes
    key: bytes = KEY
    instance: bytes = INSTANCE
    address: int = 0x7000
    version: int = 2

    def come_back(self) -> bytes:
        return import_page(self.exported, self.tag, self.key, self.instance, self.address, self.version)


EXPORT = Export(*export_page(CLEAR, KEY, INSTANCE, 0x7000, 2))
OLDER = Export(*export_page(CLEAR, KEY, INSTANCE, 0x7000, 1))
OTHER = Export(*export_page(CLEAR, KEY, INSTANCE, 0x8000, 3))


def test_what_left_comes_back() -> None:
    assert EXPORT.come_back() == CLEAR


@pytest.mark.parametrize(
    "change",
    [
        {"exported": OLDER.exported},
        {"exported": OLDER.exported, "tag": OLDER.tag},  # replay, with the tag of that time
        {"version": 1},
        {"version": 3},
        {"address": 0x8000},
        {"exported": OTHER.exported, "tag": OTHER.tag},
        {"exported": OTHER.exported, "tag": OTHER.tag, "version": 3},  # two pages swapped
        {"instance": b"\xac" * 16},
        {"key": KEY[::-1]},
        {"exported": CLEAR},
        {"exported": bytes(PAGE)},
        {"exported": EXPORT.exported[:-1]},
        {"exported": EXPORT.exported + EXPORT.tag},
        {"tag": b""},
        {"tag": EXPORT.tag[:-1]},
        {"tag": bytes(16)},
    ],
)
def test_nothing_else_comes_back(change: dict[str, object]) -> None:
    with pytest.raises(PageNotAuthentic):
        dataclasses.replace(EXPORT, **change).come_back()  # type: ignore[arg-type]


@given(st.integers(0, (PAGE + 16) * 8 - 1))
def test_no_bit_may_change(bit: int) -> None:
    changed = bytearray(EXPORT.exported + EXPORT.tag)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PageNotAuthentic):
        Export(bytes(changed[:PAGE]), bytes(changed[PAGE:])).come_back()


@given(contents, st.integers(0, 2**40), st.integers(1, 2**64 - 1))
def test_every_page_comes_back_at_its_address_and_version(clear: bytes, number: int, version: int) -> None:
    exported, tag = export_page(clear, KEY, INSTANCE, number * PAGE, version)
    assert import_page(exported, tag, KEY, INSTANCE, number * PAGE, version) == clear


@pytest.mark.parametrize(("clear", "version"), [(CLEAR[1:], 1), (CLEAR + b"\x00", 1), (CLEAR, 0)])
def test_what_cannot_be_exported(clear: bytes, version: int) -> None:
    with pytest.raises(ValueError, match="an exported page"):
        export_page(clear, KEY, INSTANCE, 0, version)


def test_a_version_beyond_the_counter_is_never_used() -> None:
    with pytest.raises(OverflowError):
        export_page(CLEAR, KEY, INSTANCE, 0, 1 << 64)


def test_a_version_that_is_used_again_tells_nothing_but_sameness() -> None:
    """Whoever puts an older database back makes the firmware export other content under a version that was used."""
    first, first_tag = export_page(CLEAR, KEY, INSTANCE, 0x7000, 1)
    second, second_tag = export_page(CLEAR[::-1], KEY, INSTANCE, 0x7000, 1)
    assert first_tag != second_tag
    assert bytes(a ^ b for a, b in zip(first, second, strict=True)) != bytes(
        a ^ b for a, b in zip(CLEAR, CLEAR[::-1], strict=True)
    )
