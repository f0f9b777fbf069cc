"""Small images for tests: built as an owner builds them, for a host key's certificate or public key."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_guest.owner import HostKey, Image, Owner
from keyvisor_guest.wire.boot_identity import BootIdentity

# Of no image: for whatever carries an identity and does not look at it.
SOME_IDENTITY = BootIdentity(b"\xa1" * 64, b"\xa2" * 64, b"\xa3" * 64, b"\xa4" * 16)


def an_image(
    host_key: HostKey | ec.EllipticCurvePrivateKey, name: str = "payments", **parts: object
) -> Image:
    """An image with one small kernel, unless other parts are given. Every call makes another image."""
    public = host_key.public_key() if isinstance(host_key, ec.EllipticCurvePrivateKey) else host_key
    return Owner([public]).build_image(**(parts or {"kernel": f"kernel of {name}".encode()}))  # type: ignore[arg-type]
