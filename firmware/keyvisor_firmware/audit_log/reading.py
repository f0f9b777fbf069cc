"""The audit log where it lies: in an exported file, or in a state directory, beside the daemon or without it.

Reads only, and needs no key. What it reads may be anybody's: it is the verifying that says whether it is the firmware's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from keyvisor_firmware.audit_log.exporting import MAX_LINE, Line, Signed, line_of, lines, row_lines
from keyvisor_firmware.errors import NotFound
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


def export(records: Records) -> Iterator[bytes]:
    """The log as the lines of a file. Raises StateUnusable where it holds what no log does."""
    for line in state_lines(records):
        yield line_of(line)
