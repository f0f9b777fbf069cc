"""P-521 as the formats write it: points of 160 bytes, their hashes, and the shared secret.

A point is X (80 bytes) then Y (80 bytes), each the 66-byte coordinate behind 14 zero bytes (formats, A.1).
Knows nothing of requests.
"""

from __future__ import annotations

import hashlib
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_guest.wire.errors import HostKeyUnusable, Malformed

__all__ = ["POINT_LENGTH", "decode_point", "encode_point", "public_key_hash", "require_p521", "shared_secret"]

COORDINATE_LENGTH: Final = 80
POINT_LENGTH: Final = 2 * COORDINATE_LENGTH
PRIME: Final = 2**521 - 1


def require_p521(key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) -> None:
    """Raises HostKeyUnusable for a key of another curve."""
    if not isinstance(key.curve, ec.SECP521R1):
        raise HostKeyUnusable(
            f"the key is of the curve {key.curve.name}: requests need one of secp521r1 (P-521)"
        )


def encode_point(key: ec.EllipticCurvePublicKey) -> bytes:
    """The 160 bytes of a public key. Raises HostKeyUnusable for another curve than P-521."""
    require_p521(key)
    numbers = key.public_numbers()
    return b"".join(value.to_bytes(COORDINATE_LENGTH, "big") for value in (numbers.x, numbers.y))


def decode_point(point: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of 160 bytes. Raises Malformed for another length, and for what is no point of the curve.

    The range is held here as well: the library takes a coordinate modulo the prime, so that one point would
    have several encodings.
    """
    if len(point) != POINT_LENGTH:
        raise Malformed(f"a public key has {POINT_LENGTH} bytes, not {len(point)}")
    x, y = (int.from_bytes(half, "big") for half in (point[:COORDINATE_LENGTH], point[COORDINATE_LENGTH:]))
    if x >= PRIME or y >= PRIME:
        raise Malformed("a coordinate of the public key is larger than P-521 has")
    try:
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP521R1()).public_key()
    except ValueError as error:
        raise Malformed("the public key is not on the curve P-521") from error


def public_key_hash(key: ec.EllipticCurvePublicKey) -> bytes:
    """PHKH, the name of a host key in a slot: SHA-256 over the 160 bytes of the point (formats, A.2)."""
    return hashlib.sha256(encode_point(key)).digest()


def shared_secret(private_key: ec.EllipticCurvePrivateKey, peer: ec.EllipticCurvePublicKey) -> bytes:
    """Z: the x-coordinate of ECDH, 66 bytes, leading zeros kept (formats, A.2)."""
    return private_key.exchange(ec.ECDH(), peer)
