"""Digests of blobs. They become file names and parts of URLs, so only one spelling is taken."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final, NewType

from keyvisor_guest.containers.errors import ImageRefused
from keyvisor_guest.containers.oci.quoting import quoted

__all__ = ["Digest", "digest_of", "parse_digest", "spell"]

Digest = NewType("Digest", str)

_SPELLING: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def spell(value: bytes) -> Digest:
    """The 32 bytes of a SHA-256 as a digest."""
    return Digest(f"sha256:{value.hex()}")


def digest_of(data: bytes) -> Digest:
    """The digest of `data`."""
    return spell(hashlib.sha256(data).digest())


def parse_digest(text: Any) -> Digest:
    """`sha256:` and 64 lower-case hex digits. Raises ImageRefused for all else, another algorithm included."""
    if not isinstance(text, str) or not _SPELLING.fullmatch(text):
        raise ImageRefused(f"{quoted(text)} is no digest: `sha256:` and 64 hex digits in lower case are")
    return Digest(text)
