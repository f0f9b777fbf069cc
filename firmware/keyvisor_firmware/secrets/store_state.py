"""All that a secret store remembers, as one value. It holds secrets: none of them is in its `repr`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NewType

from keyvisor_guest.wire.secret_ids import SecretId
from keyvisor_guest.wire.secret_kinds import SecretKind

__all__ = ["SecretIndex", "StoreState", "StoredSecret"]

SecretIndex = NewType("SecretIndex", int)


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """One secret of the store. Ids are not unique (formats, B.3): the index, its place in the store, is."""

    kind: SecretKind
    id: SecretId
    value: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoreState:
    """The store of one start of one guest.

    `entries` in the order of their indexes. `extension_secret` (32 bytes) is None until the first accepted
    request fixes it. `request_tags` (16 bytes each) are those of all accepted requests in order, null requests
    too: the secret-store hash is made of them (formats, C.6). The two flags never go back to False.
    `cck` (32 bytes) is what replaced the image's customer communication key, None where nothing did.
    `wrapping_key` (64 bytes) is what this guest's protected keys are wrapped under: made with the first accepted
    key, never changed after that.
    """

    entries: tuple[StoredSecret, ...] = ()
    extension_secret: bytes | None = field(default=None, repr=False)
    locked: bool = False
    dump_disabled: bool = False
    request_tags: tuple[bytes, ...] = ()
    cck: bytes | None = field(default=None, repr=False)
    wrapping_key: bytes | None = field(default=None, repr=False)
