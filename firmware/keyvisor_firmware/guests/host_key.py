"""The host keys: the P-521 keys that owners encrypt for, current and backup, and the test CA that vouches for them.

Made once per state directory. Private keys are on disk sealed only, each for its own name, so that none can be put
in another's place. The certificates say that they are test ones: nothing here vouches for a machine.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keyvisor_firmware.errors import Conflict, NotFound, StateUnusable
from keyvisor_firmware.guests import host_key_authority as authority
from keyvisor_firmware.state.records import HostKeyDocumentRow, HostKeyRow, Records
from keyvisor_guest.wire.p521 import public_key_hash
from keyvisor_hsm.errors import SealBroken

QUERY_KEYS: Final = 15  # hashes of 32 bytes that Query Keys answers (formats, C.1, command 0002)

Clock = Callable[[], datetime.datetime]


class Sealer(Protocol):
    """What the operator token does for whatever is kept on disk (keyvisor_hsm.master_keys.OperatorToken)."""

    def seal(self, plaintext: bytes, context: bytes) -> bytes:
        """Encrypt for the place that `context` names."""
        ...

    def unseal(self, sealed: bytes, context: bytes) -> bytes:
        """What was sealed for that place. Raises SealBroken for anything else."""
        ...


class KeyName(enum.StrEnum):
    """The keys of a state directory."""

    CURRENT = "current"
    BACKUP = "backup"
    CA_ROOT = "ca-root"
    CA_SIGNING = "ca-signing"


@dataclass(frozen=True, slots=True)
class HostKey:
    """A key and its certificate (PEM)."""

    private: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: str

    @property
    def x509(self) -> x509.Certificate:
        """The certificate."""
        return x509.load_pem_x509_certificate(self.certificate.encode())

    @property
    def hash(self) -> bytes:
        """PHKH of the key, 32 bytes (formats, A.2)."""
        return public_key_hash(self.private.public_key())


@dataclass(frozen=True, slots=True)
class KeyRing:
    """All keys of one moment."""

    current: HostKey
    backup: HostKey
    root: HostKey
    signing: HostKey


@dataclass(frozen=True, slots=True)
class Documents:
    """What owners need to make something for this host and to know that it is this host's, all PEM."""

    current: str
    backup: str
    signing: str
    root: str
    revocations: str
    hashes: tuple[bytes, ...]


class Use(enum.Enum):
    """What a host-key document is good for."""

    CURRENT = "current"
    BACKUP = "backup"
    RETIRED = "retired"  # its key is gone


@dataclass(frozen=True, slots=True)
class IssuedDocument:
    """A host-key document for the operator. `serial` is hex, `hash` its key's (32 bytes), `revoked` ISO 8601, UTC."""

    serial: str
    use: Use
    hash: bytes
    expires: datetime.datetime
    revoked: str | None


class HostKeys:
    """The keys in use. What changes them gives the new ones back: they are used after the commit, by `become`."""

    def __init__(self, ring: KeyRing, sealer: Sealer, clock: Clock) -> None:
        self._ring = ring
        self._sealer = sealer
        self._clock = clock

    @property
    def ring(self) -> KeyRing:
        """The keys in use."""
        return self._ring

    @property
    def private(self) -> tuple[ec.EllipticCurvePrivateKey, ...]:
        """The keys that requests, images and attestation requests are opened with: current first, then backup."""
        return self._ring.current.private, self._ring.backup.private

    def become(self, ring: KeyRing) -> None:
        """Use these keys from now on."""
        self._ring = ring

    def rotated(self, records: Records) -> KeyRing:
        """Write a new current key; the present one becomes the backup, and what was backup opens nothing any more."""
        fresh = _issue(records, self._ring.signing, self._clock())
        ring = replace(self._ring, current=fresh, backup=self._ring.current)
        _put(records, self._sealer, KeyName.CURRENT, ring.current)
        _put(records, self._sealer, KeyName.BACKUP, ring.backup)
        return ring

    def revoke(self, records: Records, serial: str, at: str) -> None:
        """Put a document on the revocation list. Its key goes on to open what it opens: rotate it away.

        Raises NotFound for a serial number that was never issued, Conflict where it was revoked.
        """
        found = {row.serial: row for row in records.host_key_documents()}.get(serial)
        if found is None:
            raise NotFound(
                f"no host-key document has the serial number {serial}; "
                "`keyvisor hsm host-key list` shows those there are"
            )
        if found.revoked is not None:
            raise Conflict(f"the host-key document {serial} was revoked at {found.revoked} already")
        records.revoke_host_key_document(serial, at)

    def documents(self, records: Records) -> Documents:
        """The certificates, and a revocation list of this moment."""
        revoked = [
            (int(row.serial, 16), datetime.datetime.fromisoformat(row.revoked))
            for row in records.host_key_documents()
            if row.revoked is not None
        ]
        ring = self._ring
        listed = authority.revocation_list(revoked, ring.signing.x509, ring.signing.private, self._clock())
        hashes = ring.current.hash, ring.backup.hash
        return Documents(
            current=ring.current.certificate,
            backup=ring.backup.certificate,
            signing=ring.signing.certificate,
            root=ring.root.certificate,
            revocations=listed.public_bytes(serialization.Encoding.PEM).decode("ascii"),
            hashes=(*hashes, *[bytes(32)] * (QUERY_KEYS - len(hashes))),
        )

    def issued(self, records: Records) -> tuple[IssuedDocument, ...]:
        """Every document that was issued, oldest first."""
        uses = {self._ring.current.certificate: Use.CURRENT, self._ring.backup.certificate: Use.BACKUP}
        return tuple(
            _described(row, uses.get(row.certificate, Use.RETIRED)) for row in records.host_key_documents()
        )


def host_keys(records: Records, sealer: Sealer, clock: Clock) -> HostKeys:
    """The keys of this state directory, made if there are none. Raises StateUnusable where one does not open."""
    rows = records.host_keys()
    ring = _opened(rows, sealer) if rows else _made(records, sealer, clock())
    return HostKeys(ring, sealer, clock)


def _made(records: Records, sealer: Sealer, now: datetime.datetime) -> KeyRing:
    root_key, signing_key = _generate(), _generate()
    root = authority.root(root_key, now)
    signing = HostKey(signing_key, _pem(authority.signing(signing_key.public_key(), root, root_key, now)))
    backup = _issue(records, signing, now)
    ring = KeyRing(_issue(records, signing, now), backup, HostKey(root_key, _pem(root)), signing)
    for name, key in _named(ring).items():
        _put(records, sealer, name, key)
    return ring


def _opened(rows: dict[str, HostKeyRow], sealer: Sealer) -> KeyRing:
    if rows.keys() != set(KeyName):
        raise _unusable("host keys", "are not all there")
    keys = {name: HostKey(_unsealed(rows[name], sealer), rows[name].certificate) for name in KeyName}
    return KeyRing(
        keys[KeyName.CURRENT], keys[KeyName.BACKUP], keys[KeyName.CA_ROOT], keys[KeyName.CA_SIGNING]
    )


def _named(ring: KeyRing) -> dict[KeyName, HostKey]:
    return {
        KeyName.CURRENT: ring.current,
        KeyName.BACKUP: ring.backup,
        KeyName.CA_ROOT: ring.root,
        KeyName.CA_SIGNING: ring.signing,
    }


def _issue(records: Records, signing: HostKey, now: datetime.datetime) -> HostKey:
    """A new host key, and its document."""
    private = _generate()
    issued = authority.document(private.public_key(), signing.x509, signing.private, now)
    key = HostKey(private, _pem(issued))
    records.add_host_key_document(HostKeyDocumentRow(f"{issued.serial_number:x}", key.certificate))
    return key


def _generate() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP521R1())


def _described(row: HostKeyDocumentRow, use: Use) -> IssuedDocument:
    certificate = x509.load_pem_x509_certificate(row.certificate.encode())
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise _unusable("host-key documents", "are not what this firmware issued")
    return IssuedDocument(row.serial, use, public_key_hash(key), certificate.not_valid_after_utc, row.revoked)


def _put(records: Records, sealer: Sealer, name: KeyName, key: HostKey) -> None:
    encoded = key.private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    records.put_host_key(HostKeyRow(name, sealer.seal(encoded, _context(name)), key.certificate))


def _unsealed(row: HostKeyRow, sealer: Sealer) -> ec.EllipticCurvePrivateKey:
    try:
        opened = sealer.unseal(row.sealed, _context(KeyName(row.name)))
        private = serialization.load_der_private_key(opened, password=None)
    except (SealBroken, ValueError):
        private = None
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise _unusable(f"host key `{row.name}`", "does not open")
    return private


def _unusable(what: str, why: str) -> StateUnusable:
    return StateUnusable(
        f"the {what} {why}: restore the state directory as a whole, or choose another --state"
    )


def _context(name: KeyName) -> bytes:
    return b"keyvisor host key " + name.encode()


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
