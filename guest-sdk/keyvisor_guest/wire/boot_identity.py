"""Boot identity: the four values that say which image a guest was started from.

They stand in the image's header (`se_header`), where the firmware measures the pages against them, and in every
add-secret request. Knows neither of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from keyvisor_guest.wire.cursor import Cursor

__all__ = ["DIGEST_LENGTH", "HEADER_TAG_LENGTH", "PAGE_LENGTH", "BootIdentity"]

DIGEST_LENGTH: Final = 64  # SHA-512
HEADER_TAG_LENGTH: Final = 16  # AES-GCM
PAGE_LENGTH: Final = 4096


@dataclass(frozen=True, slots=True)
class BootIdentity:
    """Page, address and tweak list digest (64 bytes each) and the image header's tag (16); 208 bytes on the wire.

    Nothing of it is secret. Raises ValueError for another length. (formats, A.1 at 038 and E)
    """

    pld: bytes
    ald: bytes
    tld: bytes
    header_tag: bytes

    def __post_init__(self) -> None:
        for name, length in _LENGTHS.items():
            value = getattr(self, name)
            if not isinstance(value, bytes) or len(value) != length:
                raise ValueError(f"`{name}` of a boot identity is {length} bytes")

    @classmethod
    def read(cls, cursor: Cursor) -> Self:
        """Take the 208 bytes from `cursor`. Raises Truncated."""
        return cls(*(cursor.take(length) for length in _LENGTHS.values()))

    def encode(self) -> bytes:
        """PLD ‖ ALD ‖ TLD ‖ header tag, 208 bytes."""
        return self.pld + self.ald + self.tld + self.header_tag


_LENGTHS: Final = {
    "pld": DIGEST_LENGTH,
    "ald": DIGEST_LENGTH,
    "tld": DIGEST_LENGTH,
    "header_tag": HEADER_TAG_LENGTH,
}
