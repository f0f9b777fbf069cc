"""The rows of one transaction as values: guests, HSMs, the machine's storage, policies and host keys.

Statements only; which of them may be done, and in which order, is the firmware's. Sealed values come and go sealed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Executable, Insert, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from keyvisor_firmware.errors import RowTaken
from keyvisor_firmware.guests.instance import InstanceId
from keyvisor_firmware.state.audit_records import AuditRecords
from keyvisor_firmware.state.schema import (
    ATTACHMENTS,
    AUDIT_POLICIES,
    FRAMES,
    GUESTS,
    HOLDERS,
    HOST_KEY_DOCUMENTS,
    HOST_KEYS,
    MAPPINGS,
    PAGES,
    POLICIES,
    ZONE,
)
from keyvisor_firmware.storage.pages import Span
from keyvisor_hsm.cards import Apqn

KEPT_POLICIES: Final = 16  # of each guest, for explanations


@dataclass(frozen=True, slots=True)
class GuestRow:
    """A guest as far as it must be the only one: its name and its handle."""

    instance: InstanceId
    name: str
    handle: int


@dataclass(frozen=True, slots=True)
class FrameRow:
    """What the host's allocator gave away, bytes."""

    absolute: int
    length: int
    label: str


@dataclass(frozen=True, slots=True)
class MappingRow:
    """A piece of one of the host's address spaces, bytes."""

    asce: int
    virtual: int
    absolute: int
    length: int


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """A registered policy's text, and the name that findings about it begin with.

    `measured`: it came inside the guest's image, and no other may take its place.
    """

    source: str
    text: str
    measured: bool = False


@dataclass(frozen=True, slots=True)
class HostKeyRow:
    """A host key, or a key of the CA that vouches for it: its private part sealed, its certificate PEM."""

    name: str
    sealed: bytes
    certificate: str


@dataclass(frozen=True, slots=True)
class HostKeyDocumentRow:
    """A host-key document that was issued: its serial number (hex), its PEM, and when it was revoked (ISO 8601, UTC)."""

    serial: str
    certificate: str
    revoked: str | None = None


class Records(AuditRecords):
    """All rows, within one transaction; those of the audit log are in the base class."""

    # --- guests

    def add_guest(self, guest: GuestRow) -> None:
        """Raises RowTaken where there is a guest of that name."""
        self._insert(insert(GUESTS).values(instance=guest.instance, name=guest.name, handle=guest.handle))

    def remove_guest(self, instance: InstanceId) -> None:
        """The guest and everything that hangs on it."""
        self._connection.execute(delete(GUESTS).where(GUESTS.c.instance == instance))

    def guests(self) -> tuple[GuestRow, ...]:
        """All guests, in the order of their names."""
        rows = self._connection.execute(select(GUESTS).order_by(GUESTS.c.name))
        return tuple(GuestRow(InstanceId(row.instance), row.name, row.handle) for row in rows)

    # --- which HSMs a guest may ask for

    def attach(self, instance: InstanceId, apqn: Apqn) -> None:
        """Raises RowTaken where it is attached already."""
        self._insert(insert(ATTACHMENTS).values(instance=instance, apqn=str(apqn)))

    def detach(self, instance: InstanceId, apqn: Apqn) -> None:
        """The HSM is no longer the guest's to ask for."""
        here = (ATTACHMENTS.c.instance == instance) & (ATTACHMENTS.c.apqn == str(apqn))
        self._connection.execute(delete(ATTACHMENTS).where(here))

    def attached(self, instance: InstanceId) -> tuple[Apqn, ...]:
        """The guest's HSMs, in APQN order."""
        chosen = select(ATTACHMENTS.c.apqn).where(ATTACHMENTS.c.instance == instance)
        return tuple(sorted(Apqn.parse(apqn) for apqn in self._connection.execute(chosen).scalars()))

    def attachments(self) -> dict[InstanceId, tuple[Apqn, ...]]:
        """The HSMs of every guest that has any, in APQN order."""
        found: dict[InstanceId, list[Apqn]] = {}
        for row in self._connection.execute(select(ATTACHMENTS)):
            found.setdefault(InstanceId(row.instance), []).append(Apqn.parse(row.apqn))
        return {instance: tuple(sorted(apqns)) for instance, apqns in found.items()}

    # --- which guest holds an HSM

    def hold(self, instance: InstanceId, apqn: Apqn) -> None:
        """The guest holds the HSM. Raises RowTaken where any guest does."""
        self._insert(insert(HOLDERS).values(apqn=str(apqn), instance=instance))

    def let_go(self, instance: InstanceId, apqn: Apqn) -> None:
        """The guest does not hold the HSM any more."""
        here = (HOLDERS.c.apqn == str(apqn)) & (HOLDERS.c.instance == instance)
        self._connection.execute(delete(HOLDERS).where(here))

    def holders(self) -> dict[Apqn, InstanceId]:
        """Who holds what, in APQN order."""
        rows = self._connection.execute(select(HOLDERS).order_by(HOLDERS.c.apqn))
        return {Apqn.parse(row.apqn): InstanceId(row.instance) for row in rows}

    # --- storage

    def put_zone(self, zone: Span) -> None:
        """The zone's base storage is there. Once."""
        self._insert(insert(ZONE).values(origin=zone.start, length=zone.length))

    def zone(self) -> Span | None:
        """Where the zone's base storage is; None before it is donated."""
        row = self._connection.execute(select(ZONE)).one_or_none()
        return None if row is None else Span(row.origin, row.length)

    def pages(self, start: int, end: int) -> dict[int, bytes]:
        """The pages from `start` up to `end` that are not all zeros, by address, ascending."""
        here = (PAGES.c.address >= start) & (PAGES.c.address < end)
        rows = self._connection.execute(select(PAGES).where(here).order_by(PAGES.c.address))
        return {row.address: row.content for row in rows}

    def clear_pages(self, start: int, end: int) -> None:
        """The pages from `start` up to `end` are all zeros; `secure_delete` leaves nothing of them in the file."""
        self._connection.execute(delete(PAGES).where((PAGES.c.address >= start) & (PAGES.c.address < end)))

    def put_pages(self, pages: Mapping[int, bytes], *, fresh: bool = False) -> None:
        """Replace pages: their addresses, and 4096 bytes each. `fresh`: all of them are zeros until now."""
        if not fresh:
            old = delete(PAGES).where(PAGES.c.address == bindparam("old"))
            self._many(old, [{"old": address} for address in pages])
        rows = [{"address": address, "content": content} for address, content in pages.items()]
        self._many(insert(PAGES), rows)

    # --- the host's allocator and its address spaces

    def change_frames(self, removed: Iterable[int], added: Iterable[FrameRow]) -> None:
        """Take away the frames at these addresses, and add others."""
        gone = delete(FRAMES).where(FRAMES.c.absolute == bindparam("gone"))
        self._many(gone, [{"gone": absolute} for absolute in removed])
        self._many(
            insert(FRAMES),
            [{"absolute": one.absolute, "length": one.length, "label": one.label} for one in added],
        )

    def frames(self) -> tuple[FrameRow, ...]:
        """What was given away, ascending."""
        rows = self._connection.execute(select(FRAMES).order_by(FRAMES.c.absolute))
        return tuple(FrameRow(row.absolute, row.length, row.label) for row in rows)

    def change_mappings(self, asce: int, removed: Iterable[int], added: Iterable[MappingRow]) -> None:
        """Take away the pieces of an address space at these virtual addresses, and add others."""
        gone = delete(MAPPINGS).where((MAPPINGS.c.asce == asce) & (MAPPINGS.c.virtual == bindparam("gone")))
        self._many(gone, [{"gone": virtual} for virtual in removed])
        self._many(
            insert(MAPPINGS),
            [
                {"asce": one.asce, "virtual": one.virtual, "absolute": one.absolute, "length": one.length}
                for one in added
            ],
        )

    def mappings(self) -> tuple[MappingRow, ...]:
        """All address spaces, ascending."""
        rows = self._connection.execute(select(MAPPINGS).order_by(MAPPINGS.c.asce, MAPPINGS.c.virtual))
        return tuple(MappingRow(row.asce, row.virtual, row.absolute, row.length) for row in rows)

    # --- a guest's policy

    def put_policy(self, instance: InstanceId, policy: PolicyRow) -> None:
        """Replace the guest's policy."""
        self._connection.execute(delete(POLICIES).where(POLICIES.c.instance == instance))
        self._connection.execute(
            insert(POLICIES).values(
                instance=instance, source=policy.source, text=policy.text, measured=policy.measured
            )
        )

    def policy(self, instance: InstanceId) -> PolicyRow | None:
        """The guest's policy, if it registered one."""
        row = self._connection.execute(select(POLICIES).where(POLICIES.c.instance == instance)).one_or_none()
        return None if row is None else PolicyRow(row.source, row.text, row.measured)

    def keep_policy(self, guest: str, policy: PolicyRow) -> None:
        """Keep a policy's text for explanations, and of the guest's older ones no more than KEPT_POLICIES."""
        digest = hashlib.sha256(policy.text.encode()).digest()
        of_guest = AUDIT_POLICIES.c.guest == guest
        self._connection.execute(delete(AUDIT_POLICIES).where(of_guest & (AUDIT_POLICIES.c.digest == digest)))
        self._connection.execute(
            insert(AUDIT_POLICIES).values(guest=guest, digest=digest, source=policy.source, text=policy.text)
        )
        numbers = select(AUDIT_POLICIES.c.number).where(of_guest).order_by(AUDIT_POLICIES.c.number.desc())
        old = self._connection.execute(numbers.offset(KEPT_POLICIES)).scalars().all()
        self._connection.execute(delete(AUDIT_POLICIES).where(AUDIT_POLICIES.c.number.in_(old)))

    def kept_policy(self, digest: bytes) -> PolicyRow | None:
        """The policy with that digest (SHA-256 of its text), if it is still kept."""
        chosen = select(AUDIT_POLICIES).where(AUDIT_POLICIES.c.digest == digest).limit(1)
        row = self._connection.execute(chosen).one_or_none()
        return None if row is None else PolicyRow(row.source, row.text)

    # --- the host keys

    def put_host_key(self, key: HostKeyRow) -> None:
        """Keep a key under its name; another one of that name is gone."""
        self._connection.execute(delete(HOST_KEYS).where(HOST_KEYS.c.name == key.name))
        self._insert(insert(HOST_KEYS).values(name=key.name, sealed=key.sealed, certificate=key.certificate))

    def host_keys(self) -> dict[str, HostKeyRow]:
        """The keys that were made, by their names."""
        rows = self._connection.execute(select(HOST_KEYS).order_by(HOST_KEYS.c.name))
        return {row.name: HostKeyRow(row.name, row.sealed, row.certificate) for row in rows}

    def add_host_key_document(self, document: HostKeyDocumentRow) -> None:
        """Remember that a document was issued. Raises RowTaken for a serial number that there is."""
        self._insert(
            insert(HOST_KEY_DOCUMENTS).values(serial=document.serial, certificate=document.certificate)
        )

    def revoke_host_key_document(self, serial: str, at: str) -> None:
        """The document does not hold any more since `at`."""
        here = HOST_KEY_DOCUMENTS.c.serial == serial
        self._connection.execute(update(HOST_KEY_DOCUMENTS).where(here).values(revoked=at))

    def host_key_documents(self) -> tuple[HostKeyDocumentRow, ...]:
        """Every document that was issued, oldest first."""
        rows = self._connection.execute(select(HOST_KEY_DOCUMENTS).order_by(HOST_KEY_DOCUMENTS.c.number))
        return tuple(HostKeyDocumentRow(row.serial, row.certificate, row.revoked) for row in rows)

    def _many(self, statement: Executable, rows: list[dict[str, object]]) -> None:
        if rows:
            self._connection.execute(statement, rows)

    def _insert(self, statement: Insert) -> None:
        try:
            # A savepoint: on other engines than SQLite the refused statement would spoil the whole transaction.
            with self._connection.begin_nested():
                self._connection.execute(statement)
        except IntegrityError:
            raise RowTaken from None
