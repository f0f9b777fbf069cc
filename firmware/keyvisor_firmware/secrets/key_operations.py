"""What can be done with a protected key, as a table: kind and operation to the function that does it.

A kind has the operations that stand in its row, and no others; a parameter that an operation does not take is
refused, so that none is silently ignored. The mathematics is `cryptography`'s. Knows keys in clear, and gives none
out: neither in an answer nor in an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives import hashes

from keyvisor_firmware.secrets.errors import KeyCode, KeyRefused
from keyvisor_firmware.secrets.key_ciphers import AES_ROWS, XTS_ROWS, require_xts_key
from keyvisor_firmware.secrets.key_signatures import HASHES_OF_CURVES, ec_rows, ed_rows, hmac_rows
from keyvisor_firmware.secrets.key_uses import KeyUse, Operation, Row, wrong_parameters
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind
from keyvisor_guest.wire.secret_values import elliptic_key

__all__ = ["OPERATIONS", "perform", "require_key"]

_EDWARDS: Final = (SecretKind.ED25519, SecretKind.ED448)

OPERATIONS: Final[Mapping[SecretKind, Mapping[Operation, Row]]] = MappingProxyType(
    {
        SecretKind.AES_128: AES_ROWS,
        SecretKind.AES_192: AES_ROWS,
        SecretKind.AES_256: AES_ROWS,
        SecretKind.AES_XTS_128: XTS_ROWS,
        SecretKind.AES_XTS_256: XTS_ROWS,
        SecretKind.HMAC_SHA_256: hmac_rows(hashes.SHA256()),
        SecretKind.HMAC_SHA_512: hmac_rows(hashes.SHA512()),
        **{kind: ec_rows(kind) for kind in HASHES_OF_CURVES},
        **{kind: ed_rows(kind) for kind in _EDWARDS},
    }
)

# Not every value of the right length is a key of these kinds; of the others it is.
_REQUIREMENTS: Final[Mapping[SecretKind, Callable[[bytes], object]]] = MappingProxyType(
    {
        SecretKind.AES_XTS_128: require_xts_key,
        SecretKind.AES_XTS_256: require_xts_key,
        **{kind: partial(elliptic_key, kind) for kind in (*HASHES_OF_CURVES, *_EDWARDS)},
    }
)


def perform(use: KeyUse, key: bytes) -> bytes:
    """Do it with the clear `key`. An empty answer to `verify` is a yes. Raises KeyRefused."""
    rows = OPERATIONS[use.kind]
    row = rows.get(use.operation)
    if row is None:
        raise KeyRefused(
            KeyCode.NO_SUCH_OPERATION,
            f"a secret of type {KINDS[use.kind].title} has no `{use.operation}`, only {_listed(rows)}",
        )
    for each in fields(use.parameters):
        if getattr(use.parameters, each.name) != each.default and each.name not in row.takes:
            raise wrong_parameters(f"`{use.operation}` with this key takes no `{each.name}`: leave it out")
    return row.run(key, use.data, use.parameters)


def require_key(kind: SecretKind, value: bytes) -> None:
    """Raises Malformed for a value of the right length that is still no key of this kind."""
    if require := _REQUIREMENTS.get(kind):
        require(value)


def _listed(rows: Mapping[Operation, Row]) -> str:
    return " and ".join(f"`{operation}`" for operation in rows)
