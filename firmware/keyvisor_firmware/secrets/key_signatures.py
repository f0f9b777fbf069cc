"""HMAC, ECDSA and EdDSA with a key in clear: what `key_operations` has for the keys that sign.

Signatures of EC keys are DER, public keys DER SubjectPublicKeyInfo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from keyvisor_firmware.secrets.errors import KeyCode, KeyRefused
from keyvisor_firmware.secrets.key_uses import NOTHING, Hash, KeyParameters, Operation, Row, wrong_parameters
from keyvisor_guest.wire.secret_kinds import SecretKind
from keyvisor_guest.wire.secret_values import EllipticKey, elliptic_key

__all__ = ["HASHES_OF_CURVES", "ec_rows", "ed_rows", "hmac_rows"]

_HASHES: Final[Mapping[Hash, hashes.HashAlgorithm]] = MappingProxyType(
    {Hash.SHA_256: hashes.SHA256(), Hash.SHA_384: hashes.SHA384(), Hash.SHA_512: hashes.SHA512()}
)
HASHES_OF_CURVES: Final[Mapping[SecretKind, Hash]] = MappingProxyType(
    {
        SecretKind.EC_P256: Hash.SHA_256,
        SecretKind.EC_P384: Hash.SHA_384,
        SecretKind.EC_P521: Hash.SHA_512,
    }
)


def hmac_rows(algorithm: hashes.HashAlgorithm) -> Mapping[Operation, Row]:
    """The key is a block key; the signature is the whole of the code."""

    def made(key: bytes, data: bytes) -> hmac.HMAC:
        context = hmac.HMAC(key, algorithm)
        context.update(data)
        return context

    def verify(key: bytes, data: bytes, parameters: KeyParameters) -> bytes:
        return _verified(made(key, data).verify, parameters)

    return {
        Operation.SIGN: Row(NOTHING, lambda key, data, _: made(key, data).finalize()),
        Operation.VERIFY: Row(frozenset({"signature"}), verify),
    }


def ec_rows(kind: SecretKind) -> Mapping[Operation, Row]:
    """ECDSA by the curve's own hash or another, over data or over their digest."""

    def key_of(value: bytes) -> ec.EllipticCurvePrivateKey:
        return cast("ec.EllipticCurvePrivateKey", elliptic_key(kind, value))

    def sign(key: bytes, data: bytes, parameters: KeyParameters) -> bytes:
        return key_of(key).sign(data, _ecdsa(kind, data, parameters))

    def verify(key: bytes, data: bytes, parameters: KeyParameters) -> bytes:
        public, algorithm = key_of(key).public_key(), _ecdsa(kind, data, parameters)
        return _verified(lambda signature: public.verify(signature, data, algorithm), parameters)

    return {
        Operation.SIGN: Row(frozenset({"hash", "digest"}), sign),
        Operation.VERIFY: Row(frozenset({"hash", "digest", "signature"}), verify),
        Operation.PUBLIC_KEY: Row(NOTHING, lambda key, data, _: _public_key(key_of(key), data)),
    }


def ed_rows(kind: SecretKind) -> Mapping[Operation, Row]:
    """Ed25519 and Ed448 as they are: no context, nothing hashed before."""

    def key_of(value: bytes) -> Ed25519PrivateKey | Ed448PrivateKey:
        return cast("Ed25519PrivateKey | Ed448PrivateKey", elliptic_key(kind, value))

    def verify(key: bytes, data: bytes, parameters: KeyParameters) -> bytes:
        public = key_of(key).public_key()
        return _verified(lambda signature: public.verify(signature, data), parameters)

    return {
        Operation.SIGN: Row(NOTHING, lambda key, data, _: key_of(key).sign(data)),
        Operation.VERIFY: Row(frozenset({"signature"}), verify),
        Operation.PUBLIC_KEY: Row(NOTHING, lambda key, data, _: _public_key(key_of(key), data)),
    }


def _ecdsa(kind: SecretKind, data: bytes, parameters: KeyParameters) -> ec.ECDSA:
    algorithm = _HASHES[parameters.hash or HASHES_OF_CURVES[kind]]
    if not parameters.digest:
        return ec.ECDSA(algorithm)
    if len(data) != algorithm.digest_size:
        raise KeyRefused(
            KeyCode.DATA_WRONG,
            f"this digest has {algorithm.digest_size} bytes, not {len(data)}: name its `hash`",
        )
    return ec.ECDSA(Prehashed(algorithm))


def _verified(verify: Callable[[bytes], None], parameters: KeyParameters) -> bytes:
    if parameters.signature is None:
        raise wrong_parameters("`verify` needs the `signature`: give it")
    try:
        verify(parameters.signature)
    except InvalidSignature:
        raise KeyRefused(KeyCode.NOT_AUTHENTIC, "the signature is not this key's over these data") from None
    return b""


def _public_key(key: EllipticKey, data: bytes) -> bytes:
    if data:
        raise KeyRefused(KeyCode.DATA_WRONG, "`public-key` takes no data: leave them out")
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
