"""A guest, its host key, and requests for it: good ones, and ones that are broken under a valid tag."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvisor_firmware.secrets import BootIdentity, SecretStore
from keyvisor_guest.wire.asrcb import Draft, FreshKeys, build
from keyvisor_guest.wire.secret_ids import id_from_name
from keyvisor_guest.wire.secret_kinds import KINDS, SecretKind

VECTORS = Path(__file__).resolve().parents[3] / "../shared/vectors"
REQUEST_KEY = bytes(range(32))
IV = bytes(range(12))
VALUES = {
    SecretKind.NULL: b"",
    SecretKind.ASSOCIATION: b"\x5e" * 32,
    SecretKind.PLAINTEXT: b"\x00\x0aclear text" + bytes(4),
    SecretKind.AES_128: bytes(range(0x10, 0x20)),
    SecretKind.AES_192: bytes(range(0x10, 0x28)),
    SecretKind.AES_256: bytes(range(0x10, 0x30)),
    SecretKind.AES_XTS_128: bytes(range(0x20, 0x40)),
    SecretKind.AES_XTS_256: bytes(range(0x20, 0x60)),
    SecretKind.HMAC_SHA_256: bytes(range(0x30, 0x70)),
    SecretKind.HMAC_SHA_512: bytes(range(0x30, 0xB0)),
    SecretKind.EC_P256: bytes(range(0x40, 0x60)),
    SecretKind.EC_P384: bytes(range(0x40, 0x70)),
    SecretKind.EC_P521: bytes(14) + b"\x00" + bytes(range(0x40, 0x81)),
    SecretKind.ED25519: bytes(range(0x50, 0x70)),
    SecretKind.ED448: bytes(7) + bytes(range(0x50, 0x89)),
    SecretKind.UPDATE_CCK: b"\xcc" * 32,
}
IDENTITY = BootIdentity(b"\xa1" * 64, b"\xa2" * 64, b"\xa3" * 64, b"\xa4" * 16)


def _key(number: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(number, ec.SECP521R1())


@dataclass
class Guest:
    """One start of a guest, as the firmware knows it. The keys are fixed, so that requests are the same every time."""

    identity: BootIdentity = IDENTITY
    cuid: bytes = b"\xc1" * 16
    host_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: _key(0x1001))
    other_host_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: _key(0x2002))
    customer_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: _key(0x3003))

    def store(self, **options: object) -> SecretStore:
        given: dict = {"identity": self.identity, "cuid": self.cuid, "host_keys": [self.host_key], **options}
        return SecretStore(**given)

    def draft(self, name: str | None = "payments", **changes: object) -> Draft:
        """An association secret; a null request where `name` is None."""
        values: dict = {"kind": SecretKind.NULL, "identity": self.identity}
        if name is not None:
            values |= {
                "kind": SecretKind.ASSOCIATION,
                "secret_id": id_from_name(name),
                "secret": b"\x5e" * 32,
            }
        return Draft(**{**values, **changes})

    def request(
        self, name: str | None = "payments", *, hosts: int = 1, iv: bytes = IV, **changes: object
    ) -> bytes:
        """`hosts` - 1 slots for another host come before ours."""
        keys = [self.other_host_key.public_key()] * (hosts - 1) + [self.host_key.public_key()]
        return build(self.draft(name, **changes), FreshKeys(self.customer_key, REQUEST_KEY, iv), keys)

    def kind_request(self, kind: SecretKind, name: str = "a key", **changes: object) -> bytes:
        """A request for a secret of any kind; its value is VALUES' unless `secret` says otherwise."""
        row = KINDS[kind]
        secret_id = (
            None if not row.has_id else bytes(32) if kind == SecretKind.UPDATE_CCK else id_from_name(name)
        )
        values: dict = {"kind": kind, "secret_id": secret_id, "secret": VALUES[kind], **changes}
        return self.request(name, **values)

    @staticmethod
    def patched(request: bytes, patches: Mapping[int, bytes]) -> bytes:
        """The request with other public bytes, under a tag that is valid for them."""
        sealed_length = int.from_bytes(request[0x2C:0x30], "big")
        end = len(request) - 16 - sealed_length
        clear = AESGCM(REQUEST_KEY).decrypt(request[0x10:0x1C], request[end:], request[:end])
        public = bytearray(request[:end])
        for offset, value in patches.items():
            public[offset : offset + len(value)] = value
        return bytes(public) + AESGCM(REQUEST_KEY).encrypt(bytes(public[0x10:0x1C]), clear, bytes(public))


@pytest.fixture(scope="session")
def guest() -> Guest:
    return Guest()


@pytest.fixture(scope="session")
def vector() -> Callable[[str], bytes]:
    if not VECTORS.is_dir():
        pytest.skip("the published vectors are not beside this project")
    return lambda name: (VECTORS / name).read_bytes()


@pytest.fixture(scope="session")
def manifest(vector: Callable[[str], bytes]) -> list[dict]:
    return json.loads(vector("manifest.json"))["vectors"]


@pytest.fixture
def vector_guest(vector: Callable[[str], bytes]) -> Guest:
    """The guest that the published requests are for."""
    scalars = json.loads(vector("keys/keys.json"))
    return Guest(
        BootIdentity(b"\x01" * 64, b"\x02" * 64, b"\x03" * 64, b"\x04" * 16),
        b"\x42" * 16,
        _key(int(scalars["host"], 16)),
        _key(int(scalars["host2"], 16)),
        _key(int(scalars["customer"], 16)),
    )
