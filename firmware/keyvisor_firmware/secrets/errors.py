"""What can go wrong with a guest's secret store.

SecretStoreError
├── UvError        the store said no: carries the return code that the guest gets
├── KeyRefused     a protected key was not used: carries a code of our own numbering
├── NoSuchSecret   the firmware asked for an association secret that is not there
└── StateBroken    bytes that are not the encoded state of a store

No error's text holds a byte of a secret.
"""

from __future__ import annotations

import enum

from keyvisor_firmware.secrets.return_codes import RetrieveCode, ReturnCode, meaning_of

__all__ = ["KeyCode", "KeyRefused", "NoSuchSecret", "SecretStoreError", "StateBroken", "UvError"]


class SecretStoreError(Exception):
    """Base of everything that the secret store raises on purpose."""


class UvError(SecretStoreError):
    """The store said no. `rc` is for the wire, the text for a person; `reason` is what the text adds to the code.

    Nothing has changed when it is raised.
    """

    def __init__(self, rc: ReturnCode | RetrieveCode, reason: str = "") -> None:
        meaning = meaning_of(rc)
        found = f": {reason}" if reason else ""
        super().__init__(f"{meaning.text}{found}; {meaning.way_out} ({rc:#06x})")
        self.rc = rc
        self.reason = reason


class KeyCode(enum.IntEnum):
    """Why a protected key was not used. No public source has numbers for this: they are ours (decision 10)."""

    NOT_A_PROTECTED_KEY = 0x01
    OTHER_WRAPPING_KEY = 0x02
    CHANGED = 0x03
    NO_SUCH_OPERATION = 0x04
    PARAMETERS_WRONG = 0x05
    DATA_WRONG = 0x06
    NOT_AUTHENTIC = 0x07


class KeyRefused(SecretStoreError):
    """A protected key was not used; `code` is for the wire, the text for a person."""

    def __init__(self, code: KeyCode, message: str) -> None:
        super().__init__(f"{message} (protected key code {code:02x})")
        self.code = code


class NoSuchSecret(SecretStoreError):
    """The firmware asked for an association secret that is not there."""


class StateBroken(SecretStoreError):
    """Bytes that are not the encoded state of a store: another version, or changed."""
