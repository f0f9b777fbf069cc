"""What can go wrong with a guest's secret store.

SecretStoreError
├── UvError        the store said no: carries the return code that the guest gets
├── NoSuchSecret   the firmware asked for an association secret that is not there
└── StateBroken    bytes that are not the encoded state of a store

No error's text holds a byte of a secret.
"""

from __future__ import annotations

from keyvisor_firmware.secrets.return_codes import MEANINGS, ReturnCode

__all__ = ["NoSuchSecret", "SecretStoreError", "StateBroken", "UvError"]


class SecretStoreError(Exception):
    """Base of everything that the secret store raises on purpose."""


class UvError(SecretStoreError):
    """The store said no. `rc` is for the wire, the text for a person; `reason` is what the text adds to the code.

    Nothing has changed when it is raised.
    """

    def __init__(self, rc: ReturnCode, reason: str = "") -> None:
        meaning = MEANINGS[rc]
        found = f": {reason}" if reason else ""
        super().__init__(f"{meaning.text}{found}; {meaning.way_out} ({rc:#06x})")
        self.rc = rc
        self.reason = reason


class NoSuchSecret(SecretStoreError):
    """The firmware asked for an association secret that is not there."""


class StateBroken(SecretStoreError):
    """Bytes that are not the encoded state of a store: another version, or changed."""
