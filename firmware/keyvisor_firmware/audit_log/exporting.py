"""The audit log as a file: a JSON line for each record with its hash, and one for each signature, in the order of the chain.

    {"hash":"<64 hex>","record":{...}}
    {"number":N,"signature":"<128 hex>"}

Every line is canonical (`chain`) and ends with a line feed. Pure: lines in, values out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from keyvisor_firmware.audit_log.chain import (
    HASH_LENGTH,
    SIGNATURE_LENGTH,
    Event,
    Json,
    canonical,
    written,
)
from keyvisor_firmware.errors import StateUnusable
from keyvisor_firmware.state.audit_records import AuditRow

MAX_LINE: Final = 1 << 23  # bytes: a record of a plan for as many HSMs as a guest can have


@dataclass(frozen=True, slots=True)
class Recorded:
    """A record, and the hash that is said to be its."""

    record: Json
    hash: bytes

    @property
    def number(self) -> int:
        """Its number."""
        return int(self.record["number"])


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature of the record with this number, the last one before it."""

    number: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Spoilt:
    """What is no line of a log: `where` it stands, and why."""

    where: str
    why: str


Line = Recorded | Signed | Spoilt


def line_of(line: Line) -> bytes:
    """As it stands in a file. Raises StateUnusable for what is no line."""
    match line:
        case Recorded(record, digest):
            return _line({"record": record, "hash": digest.hex()})
        case Signed(number, signature):
            return _line({"number": number, "signature": signature.hex()})
        case Spoilt(where, why):
            raise StateUnusable(
                f"the audit log is broken, {where}: {why}; `keyvisor audit verify` tells more"
            )


def lines(file: Iterable[bytes]) -> Iterator[Line]:
    """What the lines of a file are."""
    for at, line in enumerate(file, 1):
        yield _read(line, f"line {at}")


def row_lines(rows: Iterable[AuditRow]) -> Iterator[Line]:
    """What rows of the database are, as the lines that an export has for them."""
    for row in rows:
        yield _row(row)
        if row.signature is not None:
            yield _read(line_of(Signed(row.number, row.signature)), f"the signature of row {row.number}")


def _row(row: AuditRow) -> Line:
    try:
        detail, decisions = json.loads(row.detail), json.loads(row.decisions)
        if (canonical(detail), canonical(decisions)) == (row.detail, row.decisions):
            event = Event(row.at, row.guest, row.event, detail, tuple(decisions), row.number)
            return _read(line_of(Recorded(written(event), row.hash)), f"row {row.number}")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        pass
    return Spoilt(f"row {row.number}", "it is not written as the firmware writes it")


def event_of(record: Json) -> Event:
    """The record as a value. Raises LookupError, TypeError for what is no record."""
    return Event(
        record["at"],
        record["guest"],
        record["event"],
        dict(record["detail"]),
        tuple(record["decisions"]),
        record["number"],
    )


def _line(value: Json) -> bytes:
    return canonical(value).encode("ascii") + b"\n"


def _read(line: bytes, where: str) -> Line:
    if len(line) > MAX_LINE:
        return Spoilt(where, f"it is longer than {MAX_LINE} bytes")
    if not line.endswith(b"\n"):
        return Spoilt(where, "it is cut off")
    try:
        value = json.loads(line.decode("ascii"))
        if _line(value) != line:
            return Spoilt(where, "it is not written as a log writes it")
        match value:
            case {"record": {"number": int(number), **rest}, "hash": str(digits), **more} if not more:
                record: dict[str, Any] = {"number": number} | {str(key): one for key, one in rest.items()}
                return Recorded(_checked(record), _bytes(digits, HASH_LENGTH))
            case {"number": int(number), "signature": str(digits), **more} if not more:
                return Signed(_number(number), _bytes(digits, SIGNATURE_LENGTH))
    except (ValueError, TypeError, LookupError, RecursionError):
        pass
    return Spoilt(where, "it is neither a record nor a signature")


def _checked(record: Json) -> Json:
    """Raises ValueError unless the record has what a record has, and nothing else."""
    if written(event_of(record)) != record:
        raise ValueError("no record")
    _number(record["number"])
    return record


def _number(number: int) -> int:
    if type(number) is not int or not 0 < number < 1 << 63:
        raise ValueError("no number of a record")
    return number


def _bytes(digits: str, length: int) -> bytes:
    found = bytes.fromhex(digits)
    if len(found) != length or found.hex() != digits:
        raise ValueError("not so many hex digits in lower case")
    return found
