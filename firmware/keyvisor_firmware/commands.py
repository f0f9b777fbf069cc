"""How a command runs: alone, in one transaction, with a way back for what it did to gates, and recorded.

What is in memory follows the commit: the tables of storage here, a guest's secrets and policy where they are changed.

Knows nothing of what a command does. Between any two of its steps it tells `at` where it is, as `event: point`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from keyvisor_firmware.association.commands import At, Work
from keyvisor_firmware.association.effects import Effects
from keyvisor_firmware.audit import Audit, Decided
from keyvisor_firmware.errors import FirmwareError
from keyvisor_firmware.secrets import UvError
from keyvisor_firmware.state.database import Database
from keyvisor_firmware.state.records import Records
from keyvisor_firmware.storage.draft import Draft
from keyvisor_firmware.storage.holdings import Holdings
from keyvisor_hsm.errors import HsmError

COMMITTED: Final = "committed"
FOLLOWED: Final = "what is in memory has followed"
"""The points after the commit: nothing fails there any more, a command that comes so far is done."""


class Commands:
    """Runs one command at a time. Whoever reads or changes what a command changes does it in here."""

    def __init__(self, database: Database, holdings: Holdings, audit: Audit, at: At) -> None:
        self._database = database
        self._holdings = holdings
        self._audit = audit
        self._at = at
        self._lock = threading.RLock()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nothing else runs. May be entered again from within."""
        with self._lock:
            yield

    @contextmanager
    def reading(self) -> Iterator[Records]:
        """A look at the records."""
        with self._lock, self._database.transaction() as records:
            yield records

    @contextmanager
    def judging(self, event: str, guest: str | None) -> Iterator[None]:
        """What precedes a command and changes nothing: others go on meanwhile, and a refusal is recorded as `event`."""
        try:
            yield
        except FirmwareError as error:
            with self._lock:
                self._record_refusal(event, guest, {}, error)
            raise

    @contextmanager
    def command(self, event: str, guest: str | None, **detail: str) -> Iterator[Work]:
        """All of what the body does, or nothing; either is recorded in the audit log as `event`.

        The commit is the last step that can fail. If it or the body raises, the transaction is rolled back first
        and the effects on gates are undone after it: what undoes them may read the database.
        """
        with self._work(event, guest, detail) as work:
            yield work
            work.at("done")
            self._audit.done(work.records, event, guest, detail, work.decided)
            work.at("recorded")
        self._audit.log.info(event, guest=guest, **detail)

    @contextmanager
    def errand(self, event: str, guest: str | None, **detail: str) -> Iterator[Work]:
        """A command that is done too often to be worth a line each time: only its refusals are recorded."""
        with self._work(event, guest, detail) as work:
            yield work

    @contextmanager
    def _work(self, event: str, guest: str | None, detail: dict[str, str]) -> Iterator[Work]:
        with self._lock:
            effects, decided = Effects(self._audit.log), Decided()

            def at(point: str) -> None:
                self._at(f"{event}: {point}")

            try:
                with self._database.transaction() as records:
                    draft = Draft(self._holdings, records)
                    at("begun")
                    yield Work(records, draft, effects, at, decided)
                    draft.write()
                    at("written")
                    self._audit.sign(records)
                    at("signed")
            except BaseException as error:
                effects.undo()
                self._record_refusal(event, guest, detail, error, decided)
                raise
            at(COMMITTED)
            draft.adopt()
            at(FOLLOWED)

    def _record_refusal(
        self,
        event: str,
        guest: str | None,
        detail: dict[str, str],
        error: BaseException,
        decided: Decided | None = None,
    ) -> None:
        # The text of what nobody raised on purpose could hold anything.
        reason = str(error) if isinstance(error, FirmwareError | UvError) else type(error).__name__
        self._audit.log.warning(f"{event}: refused", guest=guest, reason=reason, **detail)
        try:
            with self._database.transaction() as records:
                self._audit.refused(records, event, guest, detail, reason, decided)
                self._audit.sign(records)
        except (SQLAlchemyError, HsmError) as broken:
            self._audit.log.warning("the audit log cannot be written", reason=type(broken).__name__)
