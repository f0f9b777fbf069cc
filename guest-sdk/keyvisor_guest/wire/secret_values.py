"""From key files to the bytes of a secret of each kind, and back (formats, A.3).

The type that an owner gives says how the file is read; the exact kind follows from its length or its key. Draws
no randomness, reads no file, and says no byte of a secret in an error.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyvisor_guest.wire.errors import Malformed, Unbuildable
from keyvisor_guest.wire.key_files import MAX_KEY_FILE, key_title, read_private_key
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind

__all__ = [
    "MAX_PLAINTEXT",
    "EllipticKey",
    "SecretType",
    "SecretValue",
    "elliptic_key",
    "encode",
    "max_content",
    "plaintext_payload",
]

MAX_PLAINTEXT: Final = 8190  # bytes of a plaintext secret's payload
PREFIX_LENGTH: Final = 2  # u16: how long the payload is
BLOCK_LENGTH: Final = 16
ED448_SEED_LENGTH: Final = 57

EllipticKey = ec.EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey


class SecretType(enum.StrEnum):
    """How a retrievable secret comes, as `pvsecret create retrievable --type` has it (formats, G)."""

    PLAIN = "plain"
    AES = "aes"
    AES_XTS = "aes-xts"
    HMAC_SHA = "hmac-sha"
    EC = "ec"


@dataclass(frozen=True, slots=True)
class SecretValue:
    """A secret's kind, and its bytes as they stand in a request."""

    kind: SecretKind
    secret: bytes = field(repr=False)


_RAW: Final[Mapping[SecretType, tuple[str, Mapping[int, SecretKind]]]] = MappingProxyType(
    {
        SecretType.AES: (
            "an AES key",
            {16: SecretKind.AES_128, 24: SecretKind.AES_192, 32: SecretKind.AES_256},
        ),
        SecretType.AES_XTS: ("an AES-XTS key", {32: SecretKind.AES_XTS_128, 64: SecretKind.AES_XTS_256}),
        SecretType.HMAC_SHA: (
            "an HMAC-SHA key",
            {64: SecretKind.HMAC_SHA_256, 128: SecretKind.HMAC_SHA_512},
        ),
    }
)

_CURVES: Final[Mapping[SecretKind, ec.EllipticCurve]] = MappingProxyType(
    {
        SecretKind.EC_P256: ec.SECP256R1(),
        SecretKind.EC_P384: ec.SECP384R1(),
        SecretKind.EC_P521: ec.SECP521R1(),
    }
)


def max_content(secret_type: SecretType) -> int:
    """How many bytes a file of this type can have at most: what is worth reading of it."""
    if secret_type is SecretType.PLAIN:
        return MAX_PLAINTEXT
    return max(_RAW[secret_type][1]) if secret_type in _RAW else MAX_KEY_FILE


def encode(secret_type: SecretType, content: bytes) -> SecretValue:
    """The secret of a file's content: of any bytes (plain), a raw key (aes, aes-xts, hmac-sha), PEM or DER (ec).

    Raises Unbuildable for a length, a curve or a key that no kind has, and for an AES-XTS key whose halves are
    equal, which no implementation of XTS takes.
    """
    if secret_type is SecretType.PLAIN:
        return SecretValue(SecretKind.PLAINTEXT, _plaintext(content))
    if secret_type is SecretType.EC:
        return _elliptic(content)
    title, kinds = _RAW[secret_type]
    kind = kinds.get(len(content))
    if kind is None:
        raise Unbuildable(
            f"{title} is a file of {_either(kinds)} bytes, the key itself, not of {len(content)}"
        )
    if secret_type is SecretType.AES_XTS:
        _check_halves(content)
    return SecretValue(kind, content)


def _either(lengths: Mapping[int, object]) -> str:
    *others, last = (str(length) for length in lengths)
    return f"{', '.join(others)} or {last}"


def _check_halves(key: bytes) -> None:
    half = len(key) // 2
    if key[:half] == key[half:]:
        raise Unbuildable("the two halves of an AES-XTS key are equal: make one whose halves differ")


def _plaintext(payload: bytes) -> bytes:
    if len(payload) > MAX_PLAINTEXT:
        raise Unbuildable(f"a plaintext secret has at most {MAX_PLAINTEXT} bytes, not {len(payload)}")
    prefixed = len(payload).to_bytes(PREFIX_LENGTH, "big") + payload
    return prefixed.ljust(-(-len(prefixed) // BLOCK_LENGTH) * BLOCK_LENGTH, b"\x00")


def _elliptic(content: bytes) -> SecretValue:
    try:
        key = read_private_key(content)
    except Malformed as error:
        raise Unbuildable(f"an EC key: {error}") from error
    for kind, read in _PRIVATE_BYTES.items():
        if (secret := read(key)) is not None:
            return SecretValue(kind, secret.rjust(KINDS[kind].lengths[0], b"\x00"))
    raise Unbuildable(
        f"an EC key is of P-256, P-384, P-521, Ed25519 or Ed448, not {key_title(key)}: give another one"
    )


def _scalar(curve: ec.EllipticCurve) -> Callable[[object], bytes | None]:
    def read(key: object) -> bytes | None:
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != curve.name:
            return None
        return key.private_numbers().private_value.to_bytes(-(-curve.key_size // 8), "big")

    return read


def _seed(key_class: type[Ed25519PrivateKey | Ed448PrivateKey]) -> Callable[[object], bytes | None]:
    return lambda key: key.private_bytes_raw() if isinstance(key, key_class) else None


# How each kind takes its bytes from a key: None where the key is of another kind.
_PRIVATE_BYTES: Final[Mapping[SecretKind, Callable[[object], bytes | None]]] = MappingProxyType(
    {
        **{kind: _scalar(curve) for kind, curve in _CURVES.items()},
        SecretKind.ED25519: _seed(Ed25519PrivateKey),
        SecretKind.ED448: _seed(Ed448PrivateKey),
    }
)


def plaintext_payload(secret: bytes) -> bytes:
    """What a plaintext secret holds: its bytes without length and padding. Raises Malformed where these are wrong."""
    length = int.from_bytes(secret[:PREFIX_LENGTH], "big")
    end = PREFIX_LENGTH + length
    if len(secret) < PREFIX_LENGTH or length > MAX_PLAINTEXT or not 0 <= len(secret) - end < BLOCK_LENGTH:
        raise Malformed("a plaintext secret has not the length that it announces")
    if any(secret[end:]):
        raise Malformed("a plaintext secret is filled up with something else than zeros")
    return secret[PREFIX_LENGTH:end]


def elliptic_key(kind: SecretKind, secret: bytes) -> EllipticKey:
    """The private key of an EC, Ed25519 or Ed448 secret.

    Raises Malformed for another kind or length, for padding that is not zero, and for a scalar that is zero or
    not below the order of the curve.
    """
    if kind not in _PRIVATE_BYTES:
        raise Malformed(f"a secret of type {KINDS[kind].title} is no private key")
    _check_length(kind, secret)
    if kind is SecretKind.ED25519:
        return Ed25519PrivateKey.from_private_bytes(secret)
    if kind is SecretKind.ED448:
        return Ed448PrivateKey.from_private_bytes(_unpadded(secret, ED448_SEED_LENGTH))
    curve = _CURVES[kind]
    scalar = int.from_bytes(secret, "big")
    if not 1 <= scalar < curve.group_order:
        raise Malformed(f"the number of the {KINDS[kind].title} is not one that the curve has")
    return ec.derive_private_key(scalar, curve)


def _unpadded(secret: bytes, length: int) -> bytes:
    if any(secret[:-length]):
        raise Malformed("a private key is padded with something else than zeros")
    return secret[-length:]


def _check_length(kind: SecretKind, secret: bytes) -> None:
    row = KINDS[kind]
    if len(secret) not in row.lengths:
        raise Malformed(f"a secret of type {row.title} has {row.lengths_text}, not {len(secret)}")
