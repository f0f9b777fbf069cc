"""The audit log where it lies: in an exported file, or in a state directory, beside the daemon or without it.

Reads only, and needs no key. What it reads may be anybody's: it is the verifying that says whether it is the firmware's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from keyvisor_firmware.audit_log.chain import Event, Head
from keyvisor_firmware.audit_log.exporting import (
    MAX_LINE,
    Line,
    Recorded,
    Signed,
    Spoilt,
    event_of,
    line_of,
    lines,
    row_lines,
)
from keyvisor_firmware.errors import NotFound, StateUnusable
from keyvisor_firmware.state.database import Database
from keyvisor_firmware.state.records import Records

_BATCH: Final = 500  # records in memory at a time


@contextmanager
def records_of(state: Path) -> Iterator[Records]:
    """The records of a state directory, as they are at one moment. Raises StateForeign, StateUnusable, NotFound."""
    path = state / "state.db"
    if not path.exists():
        raise NotFound(f"no firmware has run in `{state}`: name its state directory with --state")
    database = Database.open_reading(path)
    try:
        with database.transaction() as records:
            yield records
    finally:
        database.close()


def state_lines(records: Records) -> Iterator[Line]:
    """The whole log, as the lines of an export; a signature without its record comes last."""
    after = 0
    while rows := records.audit_rows(after, _BATCH):
        yield from row_lines(rows)
        after = rows[-1].number
    for number in records.stray_signatures():
        yield Signed(number, bytes(64))


def file_lines(path: Path) -> Iterator[Line]:
    """The lines of an exported file. Raises OSError."""
    with path.open("rb") as file:
        yield from lines(iter(lambda: file.readline(MAX_LINE + 1), b""))


@dataclass(frozen=True, slots=True)
class Written:
    """What an exported file has in it."""

    records: int
    signatures: int
    head: Head | None


def write_export(state: Path, path: Path) -> Written:
    """Write the log of a state directory to a new file, for its owner alone. Raises OSError, StateUnusable."""
    records_in_it = signatures = 0
    head = None
    with records_of(state) as records, open(path, "xb", opener=_for_the_owner) as file:
        try:
            for line in state_lines(records):
                file.write(line_of(line))
                if isinstance(line, Recorded):
                    records_in_it += 1
                    head = Head(line.number, line.hash)
                else:
                    signatures += 1
        except BaseException:
            path.unlink()
            raise
    return Written(records_in_it, signatures, head)


def events_of(records: Records, guest: str | None = None) -> Iterator[Event]:
    """Every record as a value, or those of one guest. Raises StateUnusable where the log holds what no log does."""
    for line in state_lines(records):
        if isinstance(line, Spoilt):
            line_of(line)
        if isinstance(line, Recorded) and guest in (None, line.record["guest"]):
            yield event_of(line.record)


def event_numbered(records: Records, number: int) -> Event:
    """One record. Raises NotFound, StateUnusable."""
    rows = records.audit_rows(number - 1, 1)
    if not rows or rows[0].number != number:
        raise NotFound(f"there is no record {number} in the audit log; `keyvisor audit` shows the ids")
    line = next(row_lines(rows))
    if not isinstance(line, Recorded):
        raise StateUnusable(f"record {number} of the audit log is broken; `keyvisor audit verify` tells more")
    return event_of(line.record)


def _for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
