"""A user, their owner's tools, and a guest whose store takes what a test says: signed requests without a firmware."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from keyvisor_guest.errors import Refused
from keyvisor_guest.owner import Owner
from keyvisor_guest.wire.boot_identity import BootIdentity

HOST_KEY = ec.derive_private_key(0x2001, ec.SECP521R1())
USER = ec.derive_private_key(0x2002, ec.SECP521R1())
STRANGER = ec.derive_private_key(0x2003, ec.SECP521R1())
IDENTITY = BootIdentity(b"\x01" * 64, b"\x02" * 64, b"\x03" * 64, b"\x04" * 16)


def public(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public key, PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The private key, PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def request(name: str, signer: ec.EllipticCurvePrivateKey | None = USER, data: bytes = b"mine") -> bytes:
    """An association request of a user's, or of nobody's."""
    options: dict[str, Any] = (
        {} if signer is None else {"user_data": data, "user_signing_key": private(signer)}
    )
    return Owner([HOST_KEY.public_key()]).association_request(name, IDENTITY, **options).data


@dataclass
class Got:
    """What a retrieval gives."""

    content: bytes

    def plaintext(self) -> bytes:
        return self.content

    def pem(self) -> bytes:
        return b"PEM of " + self.content


@dataclass
class FakeSecrets:
    """A store that refuses what `refuses` says, and notes what reached it, in order."""

    refuses: Callable[[bytes], bool] = lambda _request: False
    taken: list[bytes] = field(default_factory=list)
    seen: list[bytes] = field(default_factory=list)
    locked: bool = False
    values: dict[str, bytes] = field(default_factory=dict)

    def add(self, request: bytes) -> None:
        assert not self.locked
        self.seen.append(request)
        if self.refuses(request):
            raise Refused("uv", 0x0108, "the request cannot be decrypted")
        self.taken.append(request)

    def missing(self, names: list[str]) -> tuple[str, ...]:
        assert not self.locked, "it is too late behind the lock"
        return tuple(name for name in names if name not in self.values)

    def lock(self) -> None:
        self.locked = True

    def retrieve(self, name: str) -> Got:
        assert self.locked, "nothing is opened before the store is locked"
        return Got(self.values[name])


@dataclass
class FakeGuest:
    """A guest as far as personalization asks for it."""

    secrets: FakeSecrets = field(default_factory=FakeSecrets)
    applied: int = 0

    def apply(self) -> None:
        assert self.secrets.locked
        self.applied += 1
