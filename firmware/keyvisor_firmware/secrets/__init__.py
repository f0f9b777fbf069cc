"""A guest's secret store: add-secret requests go in, association secrets are used and never come out."""

from keyvisor_firmware.secrets.errors import NoSuchSecret, SecretStoreError, StateBroken, UvError
from keyvisor_firmware.secrets.return_codes import ReturnCode
from keyvisor_firmware.secrets.state_encoding import decode_state, encode_state
from keyvisor_firmware.secrets.store import Entry, SecretStore
from keyvisor_firmware.secrets.store_state import SecretIndex, StoredSecret, StoreState
from keyvisor_guest.wire.boot_identity import BootIdentity

__all__ = [
    "BootIdentity",
    "Entry",
    "NoSuchSecret",
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
