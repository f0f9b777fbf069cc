"""The database: its version, its settings, its constraints, and transactions that are all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text, update

from keyvisor_firmware.association.machine import State
from keyvisor_firmware.errors import RowTaken, StateForeign, StateUnusable
from keyvisor_firmware.guests.instance import Instance, InstanceId
from keyvisor_firmware.state.database import Database
from keyvisor_firmware.state.records import (
    Binding,
    Event,
    HostKeyDocumentRow,
    HostKeyRow,
    PolicyRow,
)
from keyvisor_firmware.state.schema import METADATA, SCHEMA
from keyvisor_guest.wire.secret_ids import id_from_name
from keyvisor_hsm.cards import Apqn

from ...images import SOME_IDENTITY

HSM = Apqn.parse("03.0011")
SPARE = Apqn.parse("05.0011")


def instance(number: int, name: str = "") -> Instance:
    return Instance(
        InstanceId(f"{number:032x}"), name or f"guest-{number}", number.to_bytes(16), SOME_IDENTITY, "2026"
    )


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
    first, second = instance(1), instance(2)
    held = Binding(HSM, first.id, State.ASSOCIATED, 3, id_from_name("payments-signing"))
    database = Database.open(tmp_path / "state.db")
    with database.transaction() as records:
        records.add_guest(second)
        records.add_guest(first)
        records.attach(first.id, SPARE)
        records.attach(first.id, HSM)
        records.bind(first.id, HSM)
        records.set_binding(held)
        records.put_policy(first.id, PolicyRow("p.yaml", "version: 1"))
        records.put_policy(first.id, PolicyRow("q.yaml", "version: 2"))
        records.put_secret_store(first.id, b"sealed")
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
        assert records.attached(first.id) == (HSM, SPARE)
        assert records.bindings() == {HSM: held}
        assert records.policy(first.id) == PolicyRow("q.yaml", "version: 2")
        assert records.policy(second.id) is None
        assert records.secret_store(first.id) == b"sealed"
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
            records.add_guest(instance(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half_done()
    with database.transaction() as records:
        assert records.guests() == ()


def test_an_hsm_has_one_holder_and_a_name_one_guest(database: Database) -> None:
    with database.transaction() as records:
        records.add_guest(instance(1))
        records.add_guest(instance(2))
        records.bind(instance(1).id, HSM)
        with pytest.raises(RowTaken):
            records.bind(instance(2).id, HSM)
        with pytest.raises(RowTaken):
            records.bind(instance(1).id, HSM)
        with pytest.raises(RowTaken):
            records.add_guest(instance(3, "guest-1"))
        records.attach(instance(1).id, HSM)
        records.attach(instance(2).id, HSM)
        with pytest.raises(RowTaken):
            records.attach(instance(1).id, HSM)
    with database.transaction() as records:
        assert records.bindings()[HSM].instance == instance(1).id, "what was refused did not spoil the rest"


def test_a_guest_unbinds_only_what_it_holds(database: Database) -> None:
    with database.transaction() as records:
        records.add_guest(instance(1))
        records.add_guest(instance(2))
        records.bind(instance(1).id, HSM)
        records.unbind(instance(2).id, HSM)
        records.set_binding(Binding(HSM, instance(2).id, State.ASSOCIATED))
        assert records.bindings() == {HSM: Binding(HSM, instance(1).id, State.BOUND)}


def test_part2_T15_with_a_guest_goes_all_that_hangs_on_it(database: Database) -> None:
    with database.transaction() as records:
        for guest in (instance(1), instance(2)):
            records.add_guest(guest)
            records.attach(guest.id, HSM)
            records.put_policy(guest.id, PolicyRow("p", "t"))
            records.put_secret_store(guest.id, b"sealed")
        records.bind(instance(1).id, HSM)
        records.add_event(Event("at", "guest-1", "event", {}))
        records.remove_guest(instance(1).id)
    with database._engine.begin() as connection:
        left = {
            table.name: [row for row in connection.execute(table.select()) if instance(1).id in row]
            for table in METADATA.sorted_tables
        }
    assert not any(left.values())
    with database.transaction() as records:
        assert records.secret_store(instance(2).id) == b"sealed"
        assert len(records.events(9)) == 1, "the audit log stays"


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
