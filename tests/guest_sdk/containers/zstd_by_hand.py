"""Zstandard frames as tests write them, by hand: no compressor decides what is tested."""

from __future__ import annotations


def zstd_frame(blocks: bytes, window_log: int = 17) -> bytes:
    """A frame by hand (RFC 8878, 3.1.1), its window as large as is said, and its blocks."""
    return b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3]) + blocks


def zstd_block(content: bytes, repeated: int = 0, *, last: bool = True) -> bytes:
    """A block of its content, or of one byte that is repeated."""
    size, kind = (repeated, 1) if repeated else (len(content), 0)
    return (size << 3 | kind << 1 | last).to_bytes(3, "little") + content
