"""Amounts on the command line."""

from __future__ import annotations

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.cli.sizes import parse_size, size_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("4096", 4096),
        ("0x1000", 4096),
        ("4K", 4096),
        ("64G", 64 << 30),
        ("2T", 2 << 40),
        ("0x10M", 16 << 20),
    ],
)
def test_what_is_an_amount(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize(
    "text", ["", "K", "1.5T", "-1", "1k", "1 K", "1KB", "0x", "١", "4096T", "9" * 40, "1K\n"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_size(text)


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (0, "0"),
        (1, "1"),
        (4096, "4K"),
        (300 << 20, "300M"),
        (1 << 40, "1T"),
        ((1 << 40) - 4096, "1023.99G"),
        (98566144, "94M"),
        ((1 << 31) + 4096, "2.00G"),
    ],
)
def test_how_amounts_are_shown(length: int, text: str) -> None:
    assert size_text(length) == text


@given(st.integers(0, (1 << 52) - 1))
def test_what_is_shown_is_never_more_than_there_is(length: int) -> None:
    shown = size_text(length)
    if "." not in shown:
        assert parse_size(shown) == length
    else:
        number, unit = shown[:-1], shown[-1]
        size = float(number) * parse_size(f"1{unit}")
        assert size <= length * (1 + 1e-9)
        assert length - size <= parse_size(f"1{unit}") / 100 + 1
