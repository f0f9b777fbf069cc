"""How a use of a protected key is said: kind, operation, data and parameters.

Knows no key and does nothing; what a kind has is in `key_operations`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from keyvisor_firmware.secrets.errors import KeyCode, KeyRefused
from keyvisor_guest.wire.secret_kinds import SecretKind

__all__ = [
    "NOTHING",
    "Function",
    "Hash",
    "KeyParameters",
    "KeyUse",
    "Mode",
    "Operation",
    "Row",
    "wrong_parameters",
]

NOTHING: Final[frozenset[str]] = frozenset()


class Operation(enum.StrEnum):
    """What to do."""

    ENCRYPT = "encrypt"
    DECRYPT = "decrypt"
    SIGN = "sign"
    VERIFY = "verify"
    PUBLIC_KEY = "public-key"


class Mode(enum.StrEnum):
    """AES's modes of operation. XTS is the only one of XTS keys, which need not name it."""

    GCM = "GCM"
    CBC = "CBC"
    CTR = "CTR"
    XTS = "XTS"


class Hash(enum.StrEnum):
    """The hash of a signature."""

    SHA_256 = "SHA-256"
    SHA_384 = "SHA-384"
    SHA_512 = "SHA-512"


@dataclass(frozen=True, slots=True)
class KeyParameters:
    """What an operation needs besides its data; None (or False) is not given.

    `iv`: 12 bytes for GCM, 16 for CBC, for CTR (the first counter block) and for XTS (the tweak). `associated` is
    GCM's. `digest`: the data is the digest already, by `hash`. `signature` is what is verified.
    """

    mode: Mode | None = None
    iv: bytes | None = None
    associated: bytes | None = field(default=None, repr=False)
    hash: Hash | None = None
    digest: bool = False
    signature: bytes | None = None


@dataclass(frozen=True, slots=True)
class KeyUse:
    """One use of a protected key: `data` is what is signed, verified, encrypted or decrypted."""

    kind: SecretKind
    blob: bytes
    operation: Operation
    data: bytes = field(default=b"", repr=False)
    parameters: KeyParameters = KeyParameters()


Function = Callable[[bytes, bytes, KeyParameters], bytes]
"""Key in clear, data and parameters to the answer; raises KeyRefused."""


@dataclass(frozen=True, slots=True)
class Row:
    """One operation of a kind: the parameters that it takes, and what does it."""

    takes: frozenset[str]
    run: Function


def wrong_parameters(message: str) -> KeyRefused:
    """A parameter that is missing, too many, or not what it should be."""
    return KeyRefused(KeyCode.PARAMETERS_WRONG, message)
