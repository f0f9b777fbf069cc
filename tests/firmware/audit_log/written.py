"""A log in a database of its own, written as the firmware writes one, with a key that the test holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyvisor_firmware.audit import Audit, Decided
from keyvisor_firmware.audit_log.decisions import Decision
from keyvisor_firmware.audit_log.exporting import line_of
from keyvisor_firmware.audit_log.reading import state_lines
from keyvisor_firmware.state.database import Database

from ..machine import NOON, Log


class Key:
    """A signing key in memory, with the operator token's answers."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def public(self) -> ec.EllipticCurvePublicKey:
        return self._key.public_key()

    @property
    def public_key(self) -> bytes:
        return self.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, digest: bytes) -> bytes:
        signature = self._key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
        r, s = utils.decode_dss_signature(signature)
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def write(path: Path, key: Key, transactions: Iterable[int]) -> None:
    """As many records in each transaction."""
    audit = Audit(lambda: NOON, Log(), key)
    database = Database.open(path)
    for number, records_in_it in enumerate(transactions):
        with database.transaction() as records:
            for at in range(records_in_it):
                decided = Decided([Decision("bind", allowed=at == 0, apqn="03.0011", reason="größer")])
                audit.done(records, f"event {number}", "g" if at else None, {"at": str(at)}, decided)
            audit.sign(records)
    database.close()


def exported(path: Path) -> list[bytes]:
    """The lines of the log's export."""
    database = Database.open_reading(path)
    with database.transaction() as records:
        found = [line_of(line) for line in state_lines(records)]
    database.close()
    return found


def change(path: Path, statement: str, *values: object) -> int:
    """Change the database behind the firmware's back; how many rows that were."""
    connection = sqlite3.connect(path)
    with connection:
        changed = connection.execute(statement, values).rowcount
    connection.close()
    return changed
