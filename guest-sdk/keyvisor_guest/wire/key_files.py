"""Keys as people keep them in files: PEM or DER, private keys, public keys and certificates.

Says which formats are taken and what else was given instead. Reads no file, and knows nothing of requests.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from keyvisor_guest.wire.errors import Malformed

__all__ = ["MAX_KEY_FILE", "key_title", "read_private_key", "read_public_key"]

MAX_KEY_FILE: Final = 0x10000  # bytes of one key or certificate

_PEM_MARK: Final = b"-----BEGIN "
_CERTIFICATE_MARK: Final = b"-----BEGIN CERTIFICATE-----"


def read_private_key(content: bytes) -> PrivateKeyTypes:
    """The private key of a PEM or DER file. Raises Malformed for anything else, and for one with a passphrase."""
    _check_size(content)
    load = load_pem_private_key if _PEM_MARK in content else load_der_private_key
    try:
        return load(content, None)
    except TypeError as error:
        raise Malformed("the private key has a passphrase: give one without") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Malformed("not a private key, PEM or DER") from error


def read_public_key(content: bytes) -> PublicKeyTypes:
    """The public key of a certificate or of a public-key file, PEM or DER. Raises Malformed for anything else.

    Of several certificates in one PEM file the first counts. Nothing about a certificate is checked: not who
    signed it, not when it is valid. Whoever gives it answers for it.
    """
    _check_size(content)
    try:
        return _public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Malformed("neither a certificate nor a public key, PEM or DER") from error


def _public_key(content: bytes) -> PublicKeyTypes:
    if _CERTIFICATE_MARK in content:
        return x509.load_pem_x509_certificate(content).public_key()
    if _PEM_MARK in content:
        return load_pem_public_key(content)
    try:
        return load_der_public_key(content)
    except ValueError:
        return x509.load_der_x509_certificate(content).public_key()


def _check_size(content: bytes) -> None:
    if len(content) > MAX_KEY_FILE:
        raise Malformed(f"a key file has at most {MAX_KEY_FILE} bytes, this one {len(content)}")


def key_title(key: PrivateKeyTypes | PublicKeyTypes) -> str:
    """What kind of key it is, for people: `RSA-4096`, `EC secp256k1`, `Ed25519`."""
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        return f"RSA-{key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        return f"EC {key.curve.name}"
    return type(key).__name__.removesuffix("PublicKey").removesuffix("PrivateKey")
