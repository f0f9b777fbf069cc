"""Keys that never change, and the published vectors where they are at hand."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.host_key_documents import unverified_host_key

VECTORS = Path(__file__).resolve().parents[3] / "../shared/vectors"


class Vectors(NamedTuple):
    folder: Path
    manifest: dict
    keys: dict

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def entry(self, name: str) -> dict:
        return next(entry for entry in self.manifest["vectors"] if entry["file"] == name)

    def upstream_host(self) -> ec.EllipticCurvePublicKey:
        return unverified_host_key(self.read("keys/host.pem.crt"))


@pytest.fixture(scope="session")
def vectors() -> Vectors:
    if not VECTORS.is_dir():
        pytest.skip("the published vectors are not beside this project")
    scalars = json.loads((VECTORS / "keys/keys.json").read_text())
    keys = {
        name: ec.derive_private_key(int(scalars[name], 16), ec.SECP521R1())
        for name in ("customer", "host", "host2")
    }
    return Vectors(VECTORS, json.loads((VECTORS / "manifest.json").read_text()), keys)


@pytest.fixture(scope="session")
def vector_identity() -> BootIdentity:
    return BootIdentity(b"\x01" * 64, b"\x02" * 64, b"\x03" * 64, b"\x04" * 16)


def _key(number: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(number, ec.SECP521R1())


@pytest.fixture(scope="session")
def host_key() -> ec.EllipticCurvePrivateKey:
    return _key(0x1001)


@pytest.fixture(scope="session")
def other_key() -> ec.EllipticCurvePrivateKey:
    return _key(0x2002)


@pytest.fixture(scope="session")
def customer_key() -> ec.EllipticCurvePrivateKey:
    return _key(0x3003)
