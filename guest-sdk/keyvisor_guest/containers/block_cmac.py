"""AES-CMAC under a key that only encrypts single blocks (NIST SP 800-38B): for HSMs whose client carries no more than that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["BLOCK_LENGTH", "cmac_by_blocks"]

BLOCK_LENGTH: Final = 16
_POLYNOMIAL: Final = 0x87  # of GF(2^128), without its highest power
_MASK: Final = (1 << 128) - 1


def cmac_by_blocks(message: bytes, encrypt: Callable[[bytes], bytes]) -> bytes:
    """The message's CMAC. `encrypt` is asked once for each block of the message, and once more. Raises ValueError."""
    first = _doubled(_number(encrypt(bytes(BLOCK_LENGTH))))
    tail_from = max(len(message) - 1, 0) // BLOCK_LENGTH * BLOCK_LENGTH
    tail = message[tail_from:]
    if len(tail) == BLOCK_LENGTH:
        last = _number(tail) ^ first
    else:
        last = _number((tail + b"\x80").ljust(BLOCK_LENGTH, b"\0")) ^ _doubled(first)
    state = 0
    for at in range(0, tail_from, BLOCK_LENGTH):
        state = _number(encrypt(_block(state ^ _number(message[at : at + BLOCK_LENGTH]))))
    return _block(_number(encrypt(_block(state ^ last))))


def _doubled(value: int) -> int:
    return (value << 1 & _MASK) ^ (_POLYNOMIAL if value >> 127 else 0)


def _number(block: bytes) -> int:
    if len(block) != BLOCK_LENGTH:
        raise ValueError(f"a block has {BLOCK_LENGTH} bytes, not {len(block)}")
    return int.from_bytes(block, "big")


def _block(value: int) -> bytes:
    return value.to_bytes(BLOCK_LENGTH, "big")
