"""Amounts of storage on the command line: whole numbers with K, M, G or T, and how they are shown."""

from __future__ import annotations

import re
from typing import Annotated, Final

import typer

from keyvisor_guest.wire.message import MAX_ADDRESS

__all__ = ["AddressArgument", "LengthArgument", "parse_size", "size_text"]

_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_NUMBER: Final = re.compile(r"(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,16})([KMGT]?)")
_SHORT: Final = 10_000  # a number from here on is shown in the next unit


def parse_size(text: str) -> int:
    """The bytes of `256M`, `4096` or `0x1000`. Raises typer.BadParameter for anything else, and for 2^52 or more."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise typer.BadParameter(
            f"`{text}` is no amount: write a whole number with K, M, G or T, as in `256M`"
        )
    value = int(found[1], 16 if found[1][:2] in ("0x", "0X") else 10) << _UNITS[found[2]]
    if value >= MAX_ADDRESS:
        raise typer.BadParameter(f"`{text}` is more than there can be: less than 4096T")
    return value


def size_text(length: int) -> str:
    """`length` bytes in the largest unit that it is whole in; with two decimals, cut, where that number is long."""
    whole = (unit for unit in reversed(_UNITS.items()) if not length & ((1 << unit[1]) - 1))
    name, shift = next(whole) if length else ("", 0)
    if length >> shift < _SHORT:
        return f"{length >> shift}{name}"
    name, shift = next(unit for unit in reversed(_UNITS.items()) if length >> unit[1])
    return f"{length >> shift}.{(length & ((1 << shift) - 1)) * 100 >> shift:02d}{name}"


AddressArgument = Annotated[
    int,
    typer.Argument(
        parser=parse_size, metavar="ADDRESS", help="The first byte's address, as in 0x80000000 or 2G."
    ),
]
LengthArgument = Annotated[
    int, typer.Argument(parser=parse_size, metavar="LENGTH", help="How many bytes, as in 4096 or 4K.")
]
