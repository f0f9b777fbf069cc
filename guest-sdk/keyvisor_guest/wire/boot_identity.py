"""Boot identity: the four values that say which image a guest was started from, and how they are measured.

Owner and firmware both call `measure`: an owner computes the identity from their own copy of what is started,
so that nothing has to be believed that the host says. Knows nothing of requests and reads no file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Self

from keyvisor_guest.wire.cursor import Cursor

__all__ = ["DIGEST_LENGTH", "HEADER_TAG_LENGTH", "PAGE_LENGTH", "BootIdentity", "measure"]

DIGEST_LENGTH: Final = 64  # SHA-512
HEADER_TAG_LENGTH: Final = 16  # AES-GCM
PAGE_LENGTH: Final = 4096

_HEADER_TAG_DOMAIN: Final = b"keyvisor guest definition, header tag, version 1\x00"
_TWEAK_PREFIX: Final = bytes(8)  # u16 component and 6 bytes that are random in a real image (formats, E)


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


def measure(content: bytes) -> BootIdentity:
    """The boot identity of a guest definition's content, any bytes.

    The content is taken as one component loaded at address 0, in pages of 4096 bytes, the last one filled up
    with zeros. PLD = SHA-512 over the pages; ALD over their addresses (u64); TLD over their tweaks (u16
    component 0 ‖ 6 zero bytes ‖ u64 offset), all big-endian, in order (formats, E). Empty content has no page.

    The header tag stands in until real image headers are read: the first 16 bytes of
    SHA-512("keyvisor guest definition, header tag, version 1" ‖ 00 ‖ content). It alone tells apart contents
    that differ only by the zeros that fill their last page.
    """
    pages = -(-len(content) // PAGE_LENGTH)
    pld = hashlib.sha512(content)
    pld.update(bytes(pages * PAGE_LENGTH - len(content)))
    addresses = [(page * PAGE_LENGTH).to_bytes(8, "big") for page in range(pages)]
    return BootIdentity(
        pld=pld.digest(),
        ald=hashlib.sha512(b"".join(addresses)).digest(),
        tld=hashlib.sha512(b"".join(_TWEAK_PREFIX + offset for offset in addresses)).digest(),
        header_tag=hashlib.sha512(_HEADER_TAG_DOMAIN + content).digest()[:HEADER_TAG_LENGTH],
    )
