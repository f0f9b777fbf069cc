"""The host key: the P-521 key that owners encrypt their requests for, made once per state directory.

Its private part is on disk sealed only. The certificate is self-signed and says that it is a test key: nothing
here vouches for a machine.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keyvisor_firmware.errors import StateUnusable
from keyvisor_firmware.state.records import HostKeyRow, Records
from keyvisor_hsm.errors import SealBroken

SUBJECT: Final = "keyvisor test host key"
_YEARS: Final = 30
_CONTEXT: Final = b"keyvisor host key"


class Sealer(Protocol):
    """What the operator token does for whatever is kept on disk (keyvisor_hsm.master_keys.OperatorToken)."""

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        """Encrypt for the place that `context` names."""
        ...

    def unseal(self, sealed: bytes, context: bytes) -> bytes:
        """What was sealed for that place. Raises SealBroken for anything else."""
        ...


@dataclass(frozen=True, slots=True)
class HostKey:
    """The key and its certificate (PEM)."""

    private: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: str


def host_key(records: Records, sealer: Sealer, now: datetime.datetime) -> HostKey:
    """The host key of this state directory, made if there is none. Raises StateUnusable where it does not open."""
    row = records.host_key()
    if row is not None:
        return HostKey(_unsealed(row, sealer), row.certificate)
    private = ec.generate_private_key(ec.SECP521R1())
    certificate = _certificate(private, now)
    records.put_host_key(HostKeyRow(sealer.seal(_encoded(private), _CONTEXT), certificate))
    return HostKey(private, certificate)


def _encoded(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _unsealed(row: HostKeyRow, sealer: Sealer) -> ec.EllipticCurvePrivateKey:
    try:
        private = serialization.load_der_private_key(sealer.unseal(row.sealed, _CONTEXT), password=None)
    except (SealBroken, ValueError):
        private = None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise StateUnusable(
            "the host key does not open: restore the state directory as a whole, or choose another --state"
        )
    return private


def _certificate(private: ec.EllipticCurvePrivateKey, now: datetime.datetime) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SUBJECT)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks of owners' machines differ
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA512())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
