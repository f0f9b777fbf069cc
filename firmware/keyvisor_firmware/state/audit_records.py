"""The rows of the audit log, within one transaction: appended, chained to the last one, signed, and read.

Statements only: what is recorded is `audit`'s, how it is chained `audit_log.chain`'s. Nothing here changes or deletes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection, Row, func, insert, select

from keyvisor_firmware.audit_log.chain import Event, Head, Link, canonical, link_after, record_hash, written
from keyvisor_firmware.state.schema import AUDIT, AUDIT_SIGNATURES


@dataclass(frozen=True, slots=True)
class AuditRow:
    """A record of the audit log as it lies in the database, whoever wrote it there."""

    number: int
    at: str
    guest: str | None
    event: str
    detail: str
    decisions: str
    hash: bytes
    signature: bytes | None


_SIGNED: Final = AUDIT.outerjoin(AUDIT_SIGNATURES, AUDIT.c.number == AUDIT_SIGNATURES.c.number)
_LAST: Final = (
    select(AUDIT.c.number, AUDIT.c.hash, AUDIT_SIGNATURES.c.signature)
    .select_from(_SIGNED)
    .order_by(AUDIT.c.number.desc())
    .limit(1)
)


class AuditRecords:
    """The audit log."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.unsigned: Head | None = None  # the last record that was appended and is not signed yet

    def add_event(self, event: Event) -> Head:
        """Append a record, chained to the last one; which it is now. It is to be signed before the commit."""
        last = self.audit_link()
        event = replace(event, number=last.number + 1)
        head = Head(event.number, record_hash(last.link, written(event)))
        self._connection.execute(
            insert(AUDIT).values(
                number=head.number,
                at=event.at,
                guest=event.guest,
                event=event.event,
                detail=canonical(event.detail),
                decisions=canonical(event.decisions),
                hash=head.hash,
            )
        )
        self.unsigned = head
        return head

    def sign_events(self, head: Head, signature: bytes) -> None:
        """Append the signature of the last record."""
        self._connection.execute(insert(AUDIT_SIGNATURES).values(number=head.number, signature=signature))
        self.unsigned = None

    def audit_head(self) -> Head | None:
        """The last record; None of an empty log."""
        chosen = select(AUDIT.c.number, AUDIT.c.hash).order_by(AUDIT.c.number.desc()).limit(1)
        row = self._connection.execute(chosen).one_or_none()
        return None if row is None else Head(row.number, row.hash)

    def audit_link(self) -> Link:
        """What the next record goes on from."""
        row = self._connection.execute(_LAST).one_or_none()
        return Link() if row is None else link_after(Head(row.number, row.hash), row.signature)

    def event_hash(self, number: int) -> bytes | None:
        """The hash that a record has; None where there is no record of that number."""
        return self._connection.execute(
            select(AUDIT.c.hash).where(AUDIT.c.number == number)
        ).scalar_one_or_none()

    def event(self, number: int) -> Event | None:
        """One record; None where there is none of that number."""
        row = self._connection.execute(select(AUDIT).where(AUDIT.c.number == number)).one_or_none()
        return None if row is None else _event(row)

    def events(self, newest: int) -> tuple[Event, ...]:
        """The newest records, as many as `newest`, oldest first."""
        chosen = select(AUDIT).order_by(AUDIT.c.number.desc()).limit(newest)
        return tuple(_event(row) for row in reversed(self._connection.execute(chosen).all()))

    def audit_rows(self, after: int, most: int) -> tuple[AuditRow, ...]:
        """As many as `most` records with numbers above `after`, in the order of the numbers, as they lie there."""
        chosen = (
            select(AUDIT, AUDIT_SIGNATURES.c.signature)
            .select_from(_SIGNED)
            .where(AUDIT.c.number > after)
            .order_by(AUDIT.c.number)
            .limit(most)
        )
        return tuple(AuditRow(*row) for row in self._connection.execute(chosen))

    def stray_signatures(self) -> tuple[int, ...]:
        """The numbers of signatures whose record is not there."""
        there = select(AUDIT.c.number)
        chosen = select(AUDIT_SIGNATURES.c.number).where(AUDIT_SIGNATURES.c.number.not_in(there))
        return tuple(self._connection.execute(chosen.order_by(AUDIT_SIGNATURES.c.number)).scalars())

    def count_events(self) -> int:
        """How many lines there are."""
        return self._connection.execute(select(func.count()).select_from(AUDIT)).scalar_one()


def _event(row: Row[tuple[object, ...]]) -> Event:
    decisions = tuple(json.loads(row.decisions))
    return Event(row.at, row.guest, row.event, json.loads(row.detail), decisions, row.number)
