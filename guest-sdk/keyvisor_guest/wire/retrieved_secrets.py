"""The names of retrievable secrets as `pvsecret` and its documents have them (formats, C.5)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from keyvisor_guest.wire.secret_kinds import SecretKind

__all__ = ["KIND_NAMES"]

KIND_NAMES: Final[Mapping[SecretKind, str]] = MappingProxyType(
    {
        SecretKind.PLAINTEXT: "PLAINTEXT",
        SecretKind.AES_128: "AES-128-KEY",
        SecretKind.AES_192: "AES-192-KEY",
        SecretKind.AES_256: "AES-256-KEY",
        SecretKind.AES_XTS_128: "AES-XTS-128-KEY",
        SecretKind.AES_XTS_256: "AES-XTS-256-KEY",
        SecretKind.HMAC_SHA_256: "HMAC-SHA-256-KEY",
        SecretKind.HMAC_SHA_512: "HMAC-SHA-512-KEY",
        SecretKind.EC_P256: "EC-SECP256R1-PRIVATE-KEY",
        SecretKind.EC_P384: "EC-SECP384R1-PRIVATE-KEY",
        SecretKind.EC_P521: "EC-SECP521R1-PRIVATE-KEY",
        SecretKind.ED25519: "EC-ED25519-PRIVATE-KEY",
        SecretKind.ED448: "EC-ED448-PRIVATE-KEY",
    }
)
