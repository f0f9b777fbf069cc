"""The database: its version, its settings, its constraints, and transactions that are all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text, update

from keyvisor_firmware.audit_log.chain import Event
from keyvisor_firmware.errors import RowTaken, StateForeign, StateUnusable
from keyvisor_firmware.guests.instance import InstanceId
from keyvisor_firmware.state.database import Database
from keyvisor_firmware.state.records import (
    FrameRow,
    GuestRow,
    HostKeyDocumentRow,
    HostKeyRow,
    MappingRow,
    PolicyRow,
)
from keyvisor_firmware.state.schema import METADATA, SCHEMA
from keyvisor_firmware.storage.pages import PAGE, Span
from keyvisor_hsm.cards import Apqn

HSM = Apqn.parse("03.0011")
SPARE = Apqn.parse("05.0011")


FAR = (1 << 62) - PAGE  # an address that 32 bits do not hold


def guest(number: int, name: str = "") -> GuestRow:
    return GuestRow(InstanceId(f"{number:032x}"), name or f"guest-{number}", (1 << 47) + number)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(tmp_path / "state.db")
    yield opened
    opened.close()


def test_it_is_durable_and_keeps_its_constraints(database: Database) -> None:
    with database._engine.begin() as connection:
        found = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_everything_comes_back(tmp_path: Path) -> None:
    first, second = guest(1), guest(2)
    database = Database.open(tmp_path / "state.db")
    with database.transaction() as records:
        records.add_guest(second)
        records.add_guest(first)
        records.attach(first.instance, SPARE)
        records.attach(first.instance, HSM)
        records.hold(first.instance, HSM)
        records.put_policy(first.instance, PolicyRow("p.yaml", "version: 1"))
        records.put_policy(first.instance, PolicyRow("q.yaml", "version: 2", measured=True))
        records.put_zone(Span(FAR, 5 * PAGE))
        records.put_pages({0: b"\x01" * PAGE, PAGE: b"\x02" * PAGE, FAR: b"\x03" * PAGE})
        records.put_pages({PAGE: b"\x04" * PAGE})
        records.clear_pages(0, PAGE)
        records.change_frames((), [FrameRow(FAR, PAGE, "later"), FrameRow(0, PAGE, "first")])
        records.change_frames([0], [FrameRow(PAGE, FAR - PAGE, "first")])
        for asce in (FAR, PAGE):
            records.change_mappings(
                asce, (), [MappingRow(asce, FAR, 0, PAGE), MappingRow(asce, 0, FAR, PAGE)]
            )
        records.change_mappings(PAGE, [0], [])
        records.put_host_key(HostKeyRow("current", b"older", "PEM"))
        records.put_host_key(HostKeyRow("current", b"sealed too", "PEM"))
        for serial in ("7f", "01"):
            records.add_host_key_document(HostKeyDocumentRow(serial, "PEM"))
        with pytest.raises(RowTaken):
            records.add_host_key_document(HostKeyDocumentRow("7f", "another"))
        records.revoke_host_key_document("01", "now")
        for number in range(3):
            records.add_event(Event(f"at {number}", None, "event", {"key": "välue"}))
    database.close()

    database = Database.open(tmp_path / "state.db")
    with database.transaction() as records:
        assert records.guests() == (first, second)
        assert records.attached(first.instance) == (HSM, SPARE)
        assert records.holders() == {HSM: first.instance}
        assert records.policy(first.instance) == PolicyRow("q.yaml", "version: 2", measured=True)
        assert records.policy(second.instance) is None
        assert records.zone() == Span(FAR, 5 * PAGE)
        assert records.pages(0, FAR + PAGE) == {PAGE: b"\x04" * PAGE, FAR: b"\x03" * PAGE}
        assert records.pages(PAGE + 1, FAR) == {}
        assert records.frames() == (FrameRow(PAGE, FAR - PAGE, "first"), FrameRow(FAR, PAGE, "later"))
        assert records.mappings() == (
            MappingRow(PAGE, FAR, 0, PAGE),
            MappingRow(FAR, 0, FAR, PAGE),
            MappingRow(FAR, FAR, 0, PAGE),
        )
        assert records.host_keys() == {"current": HostKeyRow("current", b"sealed too", "PEM")}
        assert records.host_key_documents() == (
            HostKeyDocumentRow("7f", "PEM"),
            HostKeyDocumentRow("01", "PEM", "now"),
        )
        assert [event.at for event in records.events(2)] == ["at 1", "at 2"]
        assert records.events(9)[0].detail == {"key": "välue"}
    database.close()


def test_a_transaction_that_raises_leaves_nothing(database: Database) -> None:
    def half_done() -> None:
        with database.transaction() as records:
            records.add_guest(guest(1))
            records.put_pages({0: bytes(PAGE)})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_done()
    with database.transaction() as records:
        assert records.guests() == ()
        assert records.pages(0, PAGE) == {}


def test_what_is_there_once_is_there_once(database: Database) -> None:
    first, second = guest(1), guest(2)
    with database.transaction() as records:
        records.add_guest(first)
        records.add_guest(second)
        records.hold(first.instance, HSM)
        records.attach(first.instance, HSM)
        records.attach(second.instance, HSM)
        records.put_zone(Span(0, PAGE))
        for again in (
            lambda: records.hold(second.instance, HSM),
            lambda: records.hold(first.instance, HSM),
            lambda: records.add_guest(guest(3, "guest-1")),
            lambda: records.add_guest(GuestRow(guest(3).instance, "guest-3", first.handle)),
            lambda: records.attach(first.instance, HSM),
            lambda: records.put_zone(Span(0, 2 * PAGE)),
        ):
            with pytest.raises(RowTaken):
                again()
    with database.transaction() as records:
        assert records.holders() == {HSM: first.instance}, "what was refused did not spoil the rest"
        assert records.zone() == Span(0, PAGE)


def test_a_guest_lets_go_only_of_what_it_holds(database: Database) -> None:
    with database.transaction() as records:
        records.add_guest(guest(1))
        records.add_guest(guest(2))
        records.hold(guest(1).instance, HSM)
        records.let_go(guest(2).instance, HSM)
        assert records.holders() == {HSM: guest(1).instance}
        records.let_go(guest(1).instance, HSM)
        assert records.holders() == {}


def test_part2_T15_with_a_guest_goes_all_that_hangs_on_it(database: Database) -> None:
    with database.transaction() as records:
        for one in (guest(1), guest(2)):
            records.add_guest(one)
            records.attach(one.instance, HSM)
            records.put_policy(one.instance, PolicyRow("p", "t"))
        records.hold(guest(1).instance, HSM)
        records.add_event(Event("at", "guest-1", "event", {}))
        records.remove_guest(guest(1).instance)
    with database._engine.begin() as connection:
        left = {
            table.name: [row for row in connection.execute(table.select()) if guest(1).instance in row]
            for table in METADATA.sorted_tables
        }
    assert not any(left.values())
    with database.transaction() as records:
        assert records.policy(guest(2).instance) == PolicyRow("p", "t")
        assert len(records.events(9)) == 1, "the audit log stays"


@pytest.mark.parametrize("fresh", [False, True])
def test_nothing_is_left_in_the_files_of_a_page_that_was_cleared(tmp_path: Path, fresh: bool) -> None:
    """Whoever gets the disk finds nothing of what was scrubbed."""
    database = Database.open(tmp_path / "state.db")
    content = b"a page of a guest".ljust(PAGE, b"\x5e")
    with database.transaction() as records:
        records.put_pages({PAGE: content}, fresh=fresh)
    with database.transaction() as records:
        records.clear_pages(PAGE, 2 * PAGE)
    database.close()
    assert b"a page of a guest" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_another_versions_state_is_refused_in_one_line(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "state.db")
    with database._engine.begin() as connection:
        connection.execute(update(SCHEMA).values(version=7))
    database.close()
    with pytest.raises(StateForeign, match=r"version 7.*choose another --state") as caught:
        Database.open(tmp_path / "state.db")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"this is no database, but some text in its place" * 99, b"SQLite format 3\0" + b"\xff" * 4096],
)
def test_what_is_no_database_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.db").write_bytes(content)
    with pytest.raises(StateUnusable, match="restore it") as caught:
        Database.open(tmp_path / "state.db")
    assert "\n" not in str(caught.value)


def test_somebody_elses_tables_are_refused(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "state.db")
    with database._engine.begin() as connection:
        connection.execute(text("DROP TABLE schema"))
    database.close()
    with pytest.raises(StateForeign, match="no version"):
        Database.open(tmp_path / "state.db")
