"""The log is verified with the public key alone: whatever is changed in it is found, in the export and in the database."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from keyvisor_firmware.audit_log.chain import (
    START,
    Head,
    Link,
    canonical,
    head_digest,
    link_after,
    record_hash,
)
from keyvisor_firmware.audit_log.exporting import Recorded, Signed, line_of, lines
from keyvisor_firmware.audit_log.reading import records_of, state_lines
from keyvisor_firmware.audit_log.verifying import Report, public_key, verify
from keyvisor_firmware.errors import Malformed, NotFound, StateUnusable
from keyvisor_firmware.state.database import Database

from ..machine import HSM, SIGNING, Machine
from .written import Key, change, exported, write

TRANSACTIONS = (1, 3, 1, 2, 4)
COUNT = sum(TRANSACTIONS)

deterministic = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@dataclass(frozen=True)
class Written:
    """A log, its lines, and its key."""

    path: Path
    key: Key
    lines: list[bytes]

    def verify(self, changed: list[bytes], expected: Head | None = None) -> Report:
        return verify(lines(changed), self.key.public, expected)

    def head(self, number: int) -> Head:
        found = (line for line in lines(self.lines) if isinstance(line, Recorded) and line.number == number)
        return Head(number, next(found).hash)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Written:
    path = tmp_path_factory.mktemp("log") / "state.db"
    key = Key()
    write(path, key, TRANSACTIONS)
    return Written(path, key, exported(path))


def broken(report: Report) -> str:
    assert report.broken is not None, "it was not found"
    return report.broken.kind


# --- a log as it is


def test_a_log_is_good_with_the_public_key_alone(log: Written) -> None:
    report = log.verify(log.lines)
    assert (report.broken, report.records, report.signatures) == (None, COUNT, len(TRANSACTIONS))
    assert report.head == log.head(COUNT)


def test_a_head_that_was_seen_is_in_it(log: Written) -> None:
    for number in (1, 3, COUNT):
        assert log.verify(log.lines, log.head(number)).broken is None


def test_the_log_of_a_machine_is_good_over_its_restarts(machine: Machine) -> None:
    guest = machine.ready("g", HSM)
    machine.again()
    machine.firmware.unbind(guest.id, HSM)
    key = public_key(machine.audit.public_key)
    database = Database.open_reading(machine.path)
    with database.transaction() as records:
        report = verify(state_lines(records), key)
        assert report.broken is None
        assert report.records == records.count_events() > 10
    database.close()


def test_the_formulas_are_those_of_the_documentation(log: Written) -> None:
    """Golden: an auditor's own program must get the same."""
    record = {"number": 1, "at": "t", "guest": None, "event": "e", "detail": {"ü": "1"}, "decisions": []}
    assert canonical(record) == (
        '{"at":"t","decisions":[],"detail":{"\\u00fc":"1"},"event":"e","guest":null,"number":1}'
    )
    first = record_hash(START, record)
    assert first.hex() == "1fd9e13a0180eca18fc6e6523faa3ab3c54ba7e1525ca83d8ab2b6f62f366cc6"
    assert (
        head_digest(Head(1, first)).hex()
        == "99d16c0b267481f1ad0815efcf5a69490eb9132fc1a161cd077b94e1e0e9a0f0"
    )
    assert link_after(Head(1, first), None) == Link(1, first)
    assert (
        link_after(Head(1, first), bytes(64)).link.hex()
        == "00ff0d0b59097bdcde11f6e5a1ed7a9ff27fb3c9327d64184d453642e62d92ee"
    )


# --- an export that somebody changed


@deterministic
@given(data=st.data())
def test_a_flipped_bit_is_found(log: Written, data: st.DataObject) -> None:
    text = bytearray(b"".join(log.lines))
    text[data.draw(st.integers(0, len(text) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    broken(log.verify(bytes(text).splitlines(keepends=True)))


def test_every_flipped_byte_of_a_line_is_found(log: Written) -> None:
    for at in (1, 2):
        for place in range(len(log.lines[at])):
            line = bytearray(log.lines[at])
            line[place] ^= 0x01
            broken(log.verify([*log.lines[:at], bytes(line), *log.lines[at + 1 :]]))


@deterministic
@given(data=st.data())
def test_lines_that_are_dropped_swapped_doubled_or_moved_are_found(log: Written, data: st.DataObject) -> None:
    count = len(log.lines)
    changed = list(log.lines)
    for _ in range(data.draw(st.integers(1, 3))):
        how = data.draw(st.sampled_from(["drop", "swap", "double", "move"]))
        one = data.draw(st.integers(0, len(changed) - 1))
        other = data.draw(st.integers(0, len(changed) - 1))
        match how:
            case "drop":
                del changed[one]
            case "swap":
                changed[one], changed[other] = changed[other], changed[one]
            case "double":
                changed.insert(other, changed[one])
            case "move":
                changed.insert(other, changed.pop(one))
        assume(changed)
    # What ends early after a signature is a log: only who saw a later head can tell.
    assume(changed != log.lines[: len(changed)])
    assert count
    broken(log.verify(changed))


def test_each_single_line_that_is_dropped_is_found_and_named(log: Written) -> None:
    for at, line in enumerate(lines(log.lines)):
        report = log.verify(log.lines[:at] + log.lines[at + 1 :])
        kind = broken(report)
        assert report.broken is not None
        if isinstance(line, Recorded) and at + 2 < len(log.lines):
            assert kind in ("dropped", "reordered"), at
        if kind == "dropped":
            assert isinstance(line, Recorded)
            assert report.broken.number == line.number


@pytest.mark.parametrize(
    ("change_it", "kind"),
    [
        (lambda all_: all_[:-1], "unsigned"),
        (lambda all_: [*all_[:-1], all_[-1][:-1]], "spoilt"),
        (lambda all_: [*all_, b"\n"], "spoilt"),
        (lambda all_: [*all_, b"{}\n"], "spoilt"),
        (lambda all_: [*all_, all_[-1]], "reordered"),
        (lambda all_: [all_[0], *all_[2:]], "flipped"),
        (lambda all_: [all_[1], *all_], "reordered"),
        (lambda all_: all_[2:], "dropped"),
        (lambda all_: [*all_[:2], *all_[3:]], "dropped"),
        (lambda all_: [], "cut"),
    ],
)
def test_what_is_wrong_is_called_by_its_name(
    log: Written, change_it: Callable[[list[bytes]], list[bytes]], kind: str
) -> None:
    assert broken(log.verify(change_it(log.lines))) == kind


def test_the_same_record_written_otherwise_is_none(log: Written) -> None:
    """A record has one form, so that nothing can hide in another."""
    value = json.loads(log.lines[0])
    assert canonical(value).encode() + b"\n" == log.lines[0]
    for other in (
        json.dumps(value, sort_keys=True).encode() + b"\n",
        log.lines[0].replace(b"\n", b"\r\n"),
        log.lines[0].replace(b'"number":1', b'"number":1.0'),
        log.lines[0].replace(b'"number":1', b'"number":true'),
        log.lines[0].replace(b'{"hash"', b'{"a":1,"hash"'),
        log.lines[0].replace(b'"guest":null', b'"guest":null,"guest":null'),
    ):
        assert other != log.lines[0]
        assert broken(log.verify([other, *log.lines[1:]])) == "spoilt"


# --- a forger who makes the chain anew


def rechained(changed: list[Recorded | Signed], key: Key | None) -> list[bytes]:
    """The same records with hashes that fit, signed by `key` or with the signatures that were there."""
    link, made = Link(), []
    head = Head(1, START)
    for line in changed:
        if isinstance(line, Recorded):
            head = Head(line.number, record_hash(link.link, line.record))
            link = link_after(head, None)
            made.append(line_of(Recorded(line.record, head.hash)))
        else:
            signature = line.signature if key is None else key.sign(head_digest(head))
            link = link_after(head, signature)
            made.append(line_of(Signed(head.number, signature)))
    return made


def forged(log: Written, number: int) -> list[Recorded | Signed]:
    found = [line for line in lines(log.lines) if isinstance(line, Recorded | Signed)]
    return [
        Recorded({**line.record, "event": "never happened"}, line.hash)
        if isinstance(line, Recorded) and line.number == number
        else line
        for line in found
    ]


@pytest.mark.parametrize("number", [1, 3, COUNT])
@pytest.mark.parametrize("by", ["old signatures", "another key"])
def test_a_chain_that_was_made_anew_is_forged(log: Written, number: int, by: str) -> None:
    changed = rechained(forged(log, number), Key() if by == "another key" else None)
    assert broken(log.verify(changed)) == "forged"


def test_the_twin_with_the_key_itself_is_good_and_only_an_earlier_head_tells(log: Written) -> None:
    changed = rechained(forged(log, 3), log.key)
    assert log.verify(changed).broken is None
    assert broken(log.verify(changed, log.head(3))) == "gone"
    assert broken(log.verify(changed, log.head(COUNT))) == "gone"


def test_a_log_that_ends_early_is_found_by_a_later_head_only(log: Written) -> None:
    """What the key alone cannot find: the decision says so (0017)."""
    signatures = [at for at, line in enumerate(lines(log.lines)) if isinstance(line, Signed)]
    for at in signatures[:-1]:
        cut = log.lines[: at + 1]
        assert log.verify(cut).broken is None
        report = log.verify(cut, log.head(COUNT))
        assert broken(report) == "cut"


# --- a database that somebody changed


@pytest.fixture
def state(log: Written, tmp_path: Path) -> Path:
    shutil.copy(log.path, tmp_path / "state.db")
    return tmp_path


def verify_state(log: Written, state: Path) -> Report:
    with records_of(state) as records:
        return verify(state_lines(records), log.key.public)


def test_the_database_is_good_and_is_what_was_exported(log: Written, state: Path) -> None:
    report = verify_state(log, state)
    assert (report.broken, report.records) == (None, COUNT)
    with records_of(state) as records:
        assert [line_of(line) for line in state_lines(records)] == log.lines


CHANGES = [
    ("update audit set at = at || '0' where number = ?", "flipped"),
    ("update audit set guest = 'other' where number = ?", "flipped"),
    ("update audit set event = 'other' where number = ?", "flipped"),
    ('update audit set detail = \'{"at":"7"}\' where number = ?', "flipped"),
    ("update audit set detail = ' ' || detail where number = ?", "spoilt"),
    ("update audit set decisions = '[]' where number = ?", "flipped"),
    ("update audit set decisions = '[ ]' where number = ?", "spoilt"),
    ("update audit set decisions = '7' where number = ?", "spoilt"),
    ("update audit set hash = zeroblob(32) where number = ?", "flipped"),
    ("update audit set hash = zeroblob(31) where number = ?", "spoilt"),
    ("delete from audit where number = ?", None),
    ("update audit set number = number + 100 where number = ?", None),
    ("update audit_signatures set signature = zeroblob(64) where number = ?", "forged"),
    ("update audit_signatures set signature = zeroblob(63) where number = ?", "spoilt"),
    ("update audit_signatures set number = number + 100 where number = ?", None),
    ("delete from audit_signatures where number = ?", None),
]


@pytest.mark.parametrize(("statement", "kind"), CHANGES)
@pytest.mark.parametrize("number", range(1, COUNT + 1))
def test_any_row_that_is_changed_dropped_or_moved_is_found(
    log: Written, state: Path, statement: str, kind: str | None, number: int
) -> None:
    if change(state / "state.db", statement, number) == 0:
        return  # there is no signature of that number
    found = broken(verify_state(log, state))
    assert kind in (None, found)


def test_rows_that_change_places_are_found(log: Written, state: Path) -> None:
    for one, other in itertools.pairwise(range(1, COUNT + 1)):
        for number, to in ((one, 999), (other, one), (999, other)):
            change(state / "state.db", "update audit set number = ? where number = ?", to, number)
        broken(verify_state(log, state))


def test_rows_and_signatures_that_are_put_in_are_found(log: Written, state: Path) -> None:
    copied = (
        "insert into audit select ?, at, guest, event, detail, decisions, hash from audit where number = 1"
    )
    change(state / "state.db", copied, COUNT + 1)
    assert broken(verify_state(log, state)) == "flipped"
    change(state / "state.db", "delete from audit where number > ?", COUNT)
    assert verify_state(log, state).broken is None
    change(state / "state.db", "insert into audit_signatures values (?, zeroblob(64))", COUNT + 1)
    assert broken(verify_state(log, state)) == "reordered"


def test_a_broken_log_is_not_exported(log: Written, state: Path) -> None:
    change(state / "state.db", "update audit set detail = 'x' where number = 2")
    with pytest.raises(StateUnusable, match="row 2"):
        exported(state / "state.db")


# --- keys and places


def test_what_is_no_key_is_said_so(log: Written) -> None:
    pem = log.key.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert public_key(pem) == public_key(log.key.public_key) == log.key.public
    other = rsa.generate_private_key(65537, 2048).public_key()
    curve = ec.generate_private_key(ec.SECP384R1()).public_key()
    for bad in (
        b"",
        b"-----BEGIN PUBLIC KEY-----\n",
        *(one.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for one in (other, curve)),
    ):
        with pytest.raises(Malformed, match="keyvisor audit key"):
            public_key(bad)


def test_a_head_is_read_as_it_is_written(log: Written) -> None:
    assert Head.parse(f" {log.head(3)}\n") == log.head(3)
    for bad in (
        "",
        "3",
        "3:",
        "3:00",
        f"0:{'00' * 32}",
        f"-1:{'00' * 32}",
        f"03:{'00' * 32}",
        f"3:{'0g' * 32}",
    ):
        with pytest.raises(Malformed, match="NUMBER:HASH"):
            Head.parse(bad)


def test_a_directory_without_a_database_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no firmware has run"), records_of(tmp_path):
        pass
    assert not list(tmp_path.iterdir()), "looking makes nothing"


def test_looking_changes_nothing(state: Path) -> None:
    with records_of(state) as records, pytest.raises(Exception, match="readonly"):
        records.add_event(next(iter(records.events(1))))


def test_who_decides_is_in_no_record_a_secret(machine: Machine) -> None:
    guest = machine.ready("g", HSM)
    secret = guest and machine.firmware.list_secrets(guest.id)
    assert secret
    [last] = [event for event in machine.firmware.audit_log() if event.event == "associate"]
    [decision] = last.decisions
    assert decision["secret_id"] == SIGNING.hex()
    assert decision["secret"] == "payments-signing"
    assert decision["rule"] == {"name": "rule-of-payments-signing", "at": "policy.yaml:3"}
