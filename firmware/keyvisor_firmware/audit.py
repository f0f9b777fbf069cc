"""The audit log: one row for every command, done or refused, and the daemon's log lines beside it.

A row of a command that was done is part of the command's own transaction, so neither is there without the other.
Takes names, ids, codes and reasons; secrets have no way here, and nothing is ever changed or deleted.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from keyvisor_firmware.state.records import Event, Records

Clock = Callable[[], datetime.datetime]


class Log(Protocol):
    """Where log lines go: structlog, in the daemon."""

    def info(self, event: str, **fields: object) -> object: ...
    def warning(self, event: str, **fields: object) -> object: ...


class Audit:
    """Writes what happened. `clock` tells the time in UTC."""

    def __init__(self, clock: Clock, log: Log) -> None:
        self._clock = clock
        self.log = log

    def now(self) -> str:
        """The time as rows have it: ISO 8601, UTC, milliseconds."""
        return (
            self._clock().astimezone(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )

    def done(self, records: Records, event: str, guest: str | None, detail: Mapping[str, str]) -> None:
        """A command is done, if the transaction of `records` is committed."""
        records.add_event(Event(self.now(), guest, event, {"outcome": "done", **detail}))

    def refused(
        self, records: Records, event: str, guest: str | None, detail: Mapping[str, str], reason: str
    ) -> None:
        """A command was not done, and changed nothing."""
        records.add_event(Event(self.now(), guest, event, {"outcome": "refused", "reason": reason, **detail}))


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
