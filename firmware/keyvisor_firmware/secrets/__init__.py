"""A guest's secret store: add-secret requests go in; association secrets never come out, and keys never in clear."""

from keyvisor_firmware.secrets.errors import (
    KeyCode,
    KeyRefused,
    NoSuchSecret,
    SecretStoreError,
    StateBroken,
    UvError,
)
from keyvisor_firmware.secrets.key_uses import Hash, KeyParameters, KeyUse, Mode, Operation
from keyvisor_firmware.secrets.return_codes import RetrieveCode, ReturnCode
from keyvisor_firmware.secrets.state_encoding import decode_state, encode_state
from keyvisor_firmware.secrets.store import Entry, Retrieved, SecretStore
from keyvisor_firmware.secrets.store_state import SecretIndex, StoredSecret, StoreState
from keyvisor_guest.wire.boot_identity import BootIdentity

__all__ = [
    "BootIdentity",
    "Entry",
    "Hash",
    "KeyCode",
    "KeyParameters",
    "KeyRefused",
    "KeyUse",
    "Mode",
    "NoSuchSecret",
    "Operation",
    "RetrieveCode",
    "Retrieved",
    "ReturnCode",
    "SecretIndex",
    "SecretStore",
    "SecretStoreError",
    "StateBroken",
    "StoreState",
    "StoredSecret",
    "UvError",
    "decode_state",
    "encode_state",
]
