"""The audit log: one record for every command, done or refused, and the daemon's log lines beside it.

A record of a command that was done is part of the command's own transaction, so neither is there without the other.
Each is chained to the one before it, and the last one of a transaction is signed before the commit with a key that
never leaves the operator token (audit_log/chain.py). Takes names, ids, codes and reasons; secrets have no way here,
and nothing is ever changed or deleted.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from keyvisor_firmware.audit_log.chain import Event, head_digest
from keyvisor_firmware.audit_log.decisions import Decision
from keyvisor_firmware.state.records import PolicyRow, Records

AUDIT_KEY: Final = "audit"  # its name, and its head's, in the operator token

Clock = Callable[[], datetime.datetime]


class Log(Protocol):
    """Where log lines go: structlog, in the daemon."""

    def info(self, event: str, **fields: object) -> object: ...
    def warning(self, event: str, **fields: object) -> object: ...


class SigningKey(Protocol):
    """The key that the log is signed with (keyvisor_hsm.master_keys.SigningKey)."""

    @property
    def public_key(self) -> bytes: ...
    def sign(self, digest: bytes) -> bytes: ...


@dataclass(slots=True)
class Decided:
    """What a command has decided until now, and by which policies: recorded with it, whether it is done or refused."""

    decisions: list[Decision] = field(default_factory=list)
    policies: list[PolicyRow] = field(default_factory=list)


class Audit:
    """Writes what happened. `clock` tells the time in UTC."""

    def __init__(self, clock: Clock, log: Log, key: SigningKey) -> None:
        self._clock = clock
        self._key = key
        self.log = log

    @property
    def public_key(self) -> bytes:
        """What verifies the log: DER SubjectPublicKeyInfo."""
        return self._key.public_key

    def now(self) -> str:
        """The time as rows have it: ISO 8601, UTC, milliseconds."""
        return (
            self._clock().astimezone(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )

    def done(
        self,
        records: Records,
        event: str,
        guest: str | None,
        detail: Mapping[str, str],
        decided: Decided | None = None,
    ) -> None:
        """A command is done, if the transaction of `records` is committed."""
        self._add(records, event, guest, {"outcome": "done", **detail}, decided)

    def refused(
        self,
        records: Records,
        event: str,
        guest: str | None,
        detail: Mapping[str, str],
        reason: str,
        decided: Decided | None = None,
    ) -> None:
        """A command was not done, and changed nothing."""
        self._add(records, event, guest, {"outcome": "refused", "reason": reason, **detail}, decided)

    def noticed(self, records: Records, event: str, detail: Mapping[str, str]) -> None:
        """Nobody asked for anything, and this was found."""
        self._add(records, event, None, {"outcome": "noticed", **detail}, None)

    def sign(self, records: Records) -> None:
        """Sign what this transaction recorded, if anything. The last thing before its commit. Raises HsmError."""
        head = records.unsigned
        if head is not None:
            records.sign_events(head, self._key.sign(head_digest(head)))

    def _add(
        self,
        records: Records,
        event: str,
        guest: str | None,
        detail: Mapping[str, str],
        decided: Decided | None,
    ) -> None:
        decided = decided or Decided()
        if guest is not None:
            for policy in decided.policies:
                records.keep_policy(guest, policy)
        decisions = tuple(one.as_json() for one in decided.decisions)
        records.add_event(Event(self.now(), guest, event, detail, decisions))


def configure_log() -> Log:
    """Log lines as `time level event key=value ...` on standard error, written in one piece each."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    log: Log = structlog.get_logger()
    return log
