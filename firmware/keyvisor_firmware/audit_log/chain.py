"""The chain of the audit log: how a record is written down, what its hash covers, and what a signature covers.

    link 0       32 zero bytes
    hash n       SHA-256("keyvisor audit record 1" || the link before it || the record, canonical)
    signature    ECDSA over P-256 of SHA-256("keyvisor audit head 1" || n, 8 bytes big-endian || hash n): r and s, 32 bytes each
    link n       hash n; after a signature SHA-256("keyvisor audit link 1" || hash n || the signature)

A signature stands after the last record of each transaction, and the next record's hash covers it too: so not even a
signature in the middle can be taken out. Canonical is JSON in ASCII, keys sorted, no blanks, no fractions: a record has
one such form, and what is written otherwise is no record. Pure; knows no key, no database and no file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from keyvisor_firmware.errors import Malformed

Json = Mapping[str, Any]

HASH_LENGTH: Final = 32  # bytes
SIGNATURE_LENGTH: Final = 64  # bytes
START: Final = bytes(HASH_LENGTH)

_RECORD: Final = b"keyvisor audit record 1"
_HEAD: Final = b"keyvisor audit head 1"
_LINK: Final = b"keyvisor audit link 1"


@dataclass(frozen=True, slots=True)
class Event:
    """One record of the audit log. `at` is ISO 8601, UTC; `decisions` are those of `decisions.Decision`, as JSON.

    `number` counts from 1; it is given when the record is written.
    """

    at: str
    guest: str | None
    event: str
    detail: Mapping[str, str]
    decisions: tuple[Json, ...] = ()
    number: int = 0


@dataclass(frozen=True, slots=True)
class Head:
    """A record's number and its hash, which stands for all that came before it too."""

    number: int
    hash: bytes

    def __str__(self) -> str:
        return f"{self.number}:{self.hash.hex()}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """As `str` writes it. Raises Malformed."""
        number, _, digits = text.strip().partition(":")
        try:
            head = cls(int(number), bytes.fromhex(digits))
        except ValueError:
            head = cls(0, b"")
        if str(head) != text.strip() or len(head.hash) != HASH_LENGTH or head.number < 1:
            raise Malformed("no head of an audit log: write NUMBER:HASH as `keyvisor audit head` prints it")
        return head


@dataclass(frozen=True, slots=True)
class Link:
    """Where the chain stands: the last record's number, and what the next record's hash goes on from."""

    number: int = 0
    link: bytes = START


def canonical(value: object) -> str:
    """The one form in which `value` is written. Raises ValueError for a fraction."""
    return json.dumps(
        _whole(value), ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False
    )


def written(event: Event) -> Json:
    """All of a record that its hash covers, as JSON."""
    return {
        "number": event.number,
        "at": event.at,
        "guest": event.guest,
        "event": event.event,
        "detail": dict(event.detail),
        "decisions": [dict(decision) for decision in event.decisions],
    }


def record_hash(link: bytes, record: Json) -> bytes:
    """The hash of a record that is written after `link`."""
    return hashlib.sha256(_RECORD + link + canonical(record).encode("ascii")).digest()


def head_digest(head: Head) -> bytes:
    """What a signature at `head` signs."""
    return hashlib.sha256(_HEAD + head.number.to_bytes(8, "big") + head.hash).digest()


def link_after(head: Head, signature: bytes | None) -> Link:
    """What the next record goes on from; `signature` is the one at `head`, if there is one."""
    if signature is None:
        return Link(head.number, head.hash)
    return Link(head.number, hashlib.sha256(_LINK + head.hash + signature).digest())


def _whole(value: object) -> object:
    if isinstance(value, float):
        raise ValueError("a record has no fractions")  # noqa: TRY004  # as of what is no number at all
    if isinstance(value, Mapping):
        return {key: _whole(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(one) for one in value]
    return value
