"""What can go wrong with the formats that owner, guest and firmware share.

    WireError
    ├── Malformed          bytes that are not of the format: a field or a length that cannot be
    │   └── Truncated      the bytes end before the format does (every short read)
    ├── QueryTooShort      less room than a query block needs at least; nothing is answered
    ├── CannotDecrypt      no key slot for this host key, or slot or request are not as they were made
    ├── Unbuildable        what was asked for cannot be put into a request
    ├── UserDataUnverified no user data that the given key signed together with this request
    ├── AttestationUnverified  an answer that proves nothing of the guest that it was asked of
    └── HostKeyUnusable    not a host-key document, or not with the kind of key that requests need
        └── HostKeyUntrusted   nobody that is trusted vouches for it, or not any more

No error's text holds a byte of a secret.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "AttestationUnverified",
    "CannotDecrypt",
    "HostKeyUntrusted",
    "HostKeyUnusable",
    "Malformed",
    "QueryTooShort",
    "Truncated",
    "Unbuildable",
    "UserDataUnverified",
    "WireError",
]


class WireError(Exception):
    """Base of everything that the formats raise on purpose."""


class Malformed(WireError):
    """Bytes that are not of the format. The text says what was expected and where."""


class Truncated(Malformed):
    """The bytes end before the format does."""


class QueryTooShort(WireError):
    """Less room than a query block needs at least. `rc` is the Ultravisor's code for it."""

    rc: Final = 0x0005


class CannotDecrypt(WireError):
    """No key slot for this host key, or slot or request are not as they were made."""


class Unbuildable(WireError):
    """What was asked for cannot be put into a request."""


class UserDataUnverified(WireError):
    """No user data that the given key signed together with this request: the request is to be dropped."""


class AttestationUnverified(WireError):
    """An answer that proves nothing of the guest that it was asked of, or not what was expected."""


class HostKeyUnusable(WireError):
    """Not a host-key document, or not with the kind of key that requests need."""


class HostKeyUntrusted(HostKeyUnusable):
    """Nobody that is trusted vouches for the host-key document, or not any more."""
