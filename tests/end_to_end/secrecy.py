"""Where secrets must not be: a scan of files and of what was said."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path


def forms(secret: bytes) -> Iterator[bytes]:
    """The beginning of a secret as it could stand somewhere: as it is, in hex, in base64 wherever that begins."""
    yield secret[:16]
    yield secret[:16].hex().encode()
    yield secret[:16].hex().upper().encode()
    for skipped in range(3):
        yield base64.b64encode(secret[skipped : skipped + 15])


def nowhere(secrets: list[bytes], places: list[Path], *texts: str) -> None:
    """None of the secrets is in a file of these places, or in what was said."""
    files = [path for place in places for path in ([place] if place.is_file() else sorted(place.rglob("*")))]
    contents = [(str(path), path.read_bytes()) for path in files if path.is_file()]
    assert contents
    for where, content in [*contents, *(("what was said", text.encode()) for text in texts)]:
        for secret in secrets:
            assert len(secret) >= 16
            for form in forms(secret):
                assert form not in content, where
