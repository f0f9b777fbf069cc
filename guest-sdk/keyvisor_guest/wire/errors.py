"""What can go wrong with the formats that owner, guest and firmware share.

    WireError
    ├── Malformed          bytes that are not of the format: a field or a length that cannot be
    │   └── Truncated      the bytes end before the format does (every short read)
    ├── CannotDecrypt      no key slot for this host key, or slot or request are not as they were made
    ├── Unbuildable        what was asked for cannot be put into a request
    ├── UserDataUnverified no user data that the given key signed together with this request
    └── HostKeyUnusable    not a host-key document, or not with the kind of key that requests need

No error's text holds a byte of a secret.
"""

from __future__ import annotations

__all__ = [
    "CannotDecrypt",
    "HostKeyUnusable",
    "Malformed",
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


class CannotDecrypt(WireError):
    """No key slot for this host key, or slot or request are not as they were made."""


class Unbuildable(WireError):
    """What was asked for cannot be put into a request."""


class UserDataUnverified(WireError):
    """No user data that the given key signed together with this request: the request is to be dropped."""


class HostKeyUnusable(WireError):
    """Not a host-key document, or not with the kind of key that requests need."""
