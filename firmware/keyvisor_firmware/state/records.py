"""The rows of one transaction as values: what the firmware remembers of guests, HSMs, policies and events.

Statements only; which of them may be done, and in which order, is the firmware's. Sealed values come and go sealed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, Insert, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from keyvisor_firmware.association.machine import State
from keyvisor_firmware.errors import RowTaken
from keyvisor_firmware.guests.instance import Instance, InstanceId
from keyvisor_firmware.state.schema import (
    ATTACHMENTS,
    AUDIT,
    BINDINGS,
    BOOT_SECRETS,
    GUESTS,
    HOST_KEY_DOCUMENTS,
    HOST_KEYS,
    POLICIES,
    SECRET_STORES,
)
from keyvisor_guest.wire.boot_identity import BootIdentity
from keyvisor_guest.wire.cursor import Cursor
from keyvisor_guest.wire.secret_ids import SecretId
from keyvisor_hsm.cards import Apqn


@dataclass(frozen=True, slots=True)
class Binding:
    """What an HSM is to the guest that holds it. Index and id of the secret are given where it is associated."""

    apqn: Apqn
    instance: InstanceId
    state: State
    secret_index: int | None = None
    secret_id: SecretId | None = None


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


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the audit log. `at` is ISO 8601, UTC."""

    at: str
    guest: str | None
    event: str
    detail: Mapping[str, str]


class Records:
    """All rows, within one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # --- guests

    def add_guest(self, guest: Instance) -> None:
        """Raises RowTaken where a guest of that name runs."""
        self._insert(
            insert(GUESTS).values(
                instance=guest.id,
                name=guest.name,
                cuid=guest.cuid,
                identity=guest.identity.encode(),
                started=guest.started,
                host_key_hash=guest.host_key_hash,
                opens_after_lock=guest.opens_after_lock,
            )
        )

    def remove_guest(self, instance: InstanceId) -> None:
        """The guest and everything that hangs on it."""
        self._connection.execute(delete(GUESTS).where(GUESTS.c.instance == instance))

    def guests(self) -> tuple[Instance, ...]:
        """All guests, in the order of their names."""
        return tuple(
            _instance(row) for row in self._connection.execute(select(GUESTS).order_by(GUESTS.c.name))
        )

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

    # --- which HSMs a guest holds

    def bind(self, instance: InstanceId, apqn: Apqn) -> None:
        """The guest holds the HSM. Raises RowTaken where any guest does."""
        self._insert(insert(BINDINGS).values(apqn=str(apqn), instance=instance, state=State.BOUND.value))

    def set_binding(self, binding: Binding) -> None:
        """Replace the state and the secret of an HSM that its guest holds."""
        self._connection.execute(
            update(BINDINGS)
            .where((BINDINGS.c.apqn == str(binding.apqn)) & (BINDINGS.c.instance == binding.instance))
            .values(state=binding.state.value, secret_index=binding.secret_index, secret_id=binding.secret_id)
        )

    def unbind(self, instance: InstanceId, apqn: Apqn) -> None:
        """The guest does not hold the HSM any more."""
        here = (BINDINGS.c.apqn == str(apqn)) & (BINDINGS.c.instance == instance)
        self._connection.execute(delete(BINDINGS).where(here))

    def bindings(self, instance: InstanceId | None = None) -> dict[Apqn, Binding]:
        """What the guest holds; without one, what all of them hold. In APQN order."""
        chosen = select(BINDINGS).order_by(BINDINGS.c.apqn)
        if instance is not None:
            chosen = chosen.where(BINDINGS.c.instance == instance)
        return {binding.apqn: binding for binding in map(_binding, self._connection.execute(chosen))}

    # --- what a guest has

    def put_secret_store(self, instance: InstanceId, sealed: bytes) -> None:
        """Replace the guest's sealed store."""
        self._connection.execute(delete(SECRET_STORES).where(SECRET_STORES.c.instance == instance))
        self._connection.execute(insert(SECRET_STORES).values(instance=instance, sealed=sealed))

    def secret_store(self, instance: InstanceId) -> bytes | None:
        """The guest's sealed store; None before the first secret."""
        chosen = select(SECRET_STORES.c.sealed).where(SECRET_STORES.c.instance == instance)
        return self._connection.execute(chosen).scalar_one_or_none()

    def put_boot_secrets(self, instance: InstanceId, sealed: bytes) -> None:
        """Keep what the image's header told in secret, sealed. Once for each instance."""
        self._insert(insert(BOOT_SECRETS).values(instance=instance, sealed=sealed))

    def boot_secrets(self, instance: InstanceId) -> bytes | None:
        """The sealed boot secrets; None where there is no such instance."""
        chosen = select(BOOT_SECRETS.c.sealed).where(BOOT_SECRETS.c.instance == instance)
        return self._connection.execute(chosen).scalar_one_or_none()

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

    # --- the audit log

    def add_event(self, event: Event) -> None:
        """Append a line."""
        detail = json.dumps(dict(event.detail), ensure_ascii=False, sort_keys=True)
        self._connection.execute(
            insert(AUDIT).values(at=event.at, guest=event.guest, event=event.event, detail=detail)
        )

    def events(self, newest: int) -> tuple[Event, ...]:
        """The newest lines, as many as `newest`, oldest first."""
        chosen = select(AUDIT).order_by(AUDIT.c.number.desc()).limit(newest)
        return tuple(_event(row) for row in reversed(self._connection.execute(chosen).all()))

    def count_events(self) -> int:
        """How many lines there are."""
        return self._connection.execute(select(func.count()).select_from(AUDIT)).scalar_one()

    def _insert(self, statement: Insert) -> None:
        try:
            # A savepoint: on other engines than SQLite the refused statement would spoil the whole transaction.
            with self._connection.begin_nested():
                self._connection.execute(statement)
        except IntegrityError:
            raise RowTaken from None


def _instance(row: Row[tuple[object, ...]]) -> Instance:
    cursor = Cursor(row.identity)
    identity = BootIdentity.read(cursor)
    cursor.end()
    return Instance(
        id=InstanceId(row.instance),
        name=row.name,
        cuid=row.cuid,
        identity=identity,
        started=row.started,
        host_key_hash=row.host_key_hash,
        opens_after_lock=row.opens_after_lock,
    )


def _binding(row: Row[tuple[object, ...]]) -> Binding:
    secret_id = None if row.secret_id is None else SecretId(row.secret_id)
    return Binding(
        Apqn.parse(row.apqn), InstanceId(row.instance), State(row.state), row.secret_index, secret_id
    )


def _event(row: Row[tuple[object, ...]]) -> Event:
    return Event(row.at, row.guest, row.event, json.loads(row.detail))
