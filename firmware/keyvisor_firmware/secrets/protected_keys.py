"""Protected keys: a guest's keys, wrapped so that only this firmware can use them, and only for this guest instance.

They are the emulator's own and no real machine's: how those look is not public (formats, C.5). Only the length is
as there, the clear key's and 32 bytes more:

    off  len  field
    00   n    the key, encrypted
    n    16   synthetic IV of AES-SIV (RFC 5297), over the kind and the key
    n+10 8    "keyvisor"
    n+18 8    which wrapping key it is: the beginning of SHA-256 over a label and that key

The wrapping key is one guest instance's, and goes with it. The same key of the same kind gives the same bytes each
time, as a fixed wrapping key without a nonce does (decision 10). Pure.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from keyvisor_firmware.secrets.errors import KeyCode, KeyRefused
from keyvisor_guest.wire.secret_kinds import KINDS, KindRow, SecretKind

__all__ = ["MARK", "WRAPPING_KEY_LENGTH", "unwrap", "wrap"]

MARK: Final = b"keyvisor"
WRAPPING_KEY_LENGTH: Final = 64  # AES-256 twice, as AES-SIV has it

_IV_LENGTH: Final = 16
_NAME_LENGTH: Final = 8
_LABEL: Final = b"keyvisor protected key"


def wrap(wrapping_key: bytes, kind: SecretKind, key: bytes) -> bytes:
    """The protected key for `key`, which is of `kind`: `listed_extra` bytes longer than it."""
    sealed = AESSIV(wrapping_key).encrypt(key, [_associated(kind)])
    return sealed[_IV_LENGTH:] + sealed[:_IV_LENGTH] + MARK + _name(wrapping_key)


def unwrap(wrapping_key: bytes | None, row: KindRow, blob: bytes) -> bytes:
    """The key in a protected key of this kind. `wrapping_key` is None where the guest has none yet. Raises KeyRefused."""
    clear_length = len(blob) - row.listed_extra
    if (
        not row.is_key
        or clear_length not in row.lengths
        or blob[-len(MARK) - _NAME_LENGTH : -_NAME_LENGTH] != MARK
    ):
        raise KeyRefused(
            KeyCode.NOT_A_PROTECTED_KEY,
            f"this is no protected key of type {row.title}: hand over what the firmware gave for the secret",
        )
    if wrapping_key is None or not hmac.compare_digest(blob[-_NAME_LENGTH:], _name(wrapping_key)):
        raise KeyRefused(
            KeyCode.OTHER_WRAPPING_KEY,
            "the protected key is another guest's, or of an earlier start of this one: retrieve the secret again",
        )
    iv = blob[clear_length : clear_length + _IV_LENGTH]
    try:
        return AESSIV(wrapping_key).decrypt(iv + blob[:clear_length], [_associated(row.kind)])
    except InvalidTag:
        raise KeyRefused(
            KeyCode.CHANGED,
            "the protected key was changed, or is of another kind: retrieve the secret again",
        ) from None


def _associated(kind: SecretKind) -> bytes:
    return _LABEL + KINDS[kind].kind.to_bytes(2, "big")


def _name(wrapping_key: bytes) -> bytes:
    return hashlib.sha256(_LABEL + b" wrapping key" + wrapping_key).digest()[:_NAME_LENGTH]
