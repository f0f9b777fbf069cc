"""The database: opened, checked, and used in transactions that are all or nothing.

The only module that knows SQLite. Commits are on disk when they return, so what a command answered is there after
a power failure too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import quote

from sqlalchemy import Connection, Engine, StaticPool, create_engine, event, insert, inspect, select
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from keyvisor_firmware.errors import StateForeign, StateUnusable
from keyvisor_firmware.state.records import Records
from keyvisor_firmware.state.schema import METADATA, SCHEMA, SCHEMA_VERSION


class Database:
    """The daemon's database. One transaction at a time: whoever uses it holds the firmware's lock."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the database file, with its tables made if it is empty. Raises StateForeign, StateUnusable."""
        engine = _engine(path)
        try:
            with engine.begin() as connection:
                _require_version(connection, path)
        except SQLAlchemyError as error:
            engine.dispose()
            raise StateUnusable(
                f"the database `{path}` cannot be read ({_cause(error)}): restore it, or choose another --state"
            ) from None
        except StateForeign:
            engine.dispose()
            raise
        return cls(engine)

    @classmethod
    def open_reading(cls, path: Path) -> Self:
        """Open the file to look at it, beside a daemon or without one. Raises StateForeign, StateUnusable.

        Nothing can be written, and what a transaction reads is as it was when the transaction began.
        """
        engine = _engine(path, reading=True)
        try:
            with engine.begin() as connection:
                _require_version(connection, path)
        except SQLAlchemyError as error:
            engine.dispose()
            raise StateUnusable(
                f"the database `{path}` cannot be read ({_cause(error)}): name the --state of a firmware that ran"
            ) from None
        except StateForeign:
            engine.dispose()
            raise
        return cls(engine)

    @contextmanager
    def transaction(self) -> Iterator[Records]:
        """All that is done with the records, or nothing: committed at the end, rolled back if anything raises."""
        with self._engine.begin() as connection:
            yield Records(connection)

    def close(self) -> None:
        """Give the file up."""
        self._engine.dispose()


def _engine(path: Path, *, reading: bool = False) -> Engine:
    engine = create_engine(
        f"sqlite+pysqlite:///file:{quote(str(path))}?mode=ro&uri=true"
        if reading
        else f"sqlite+pysqlite:///{path}",
        poolclass=StaticPool,
        connect_args={"check_same_thread": False, "isolation_level": None},
        hide_parameters=True,  # an error's text must not show a row
    )
    event.listen(engine, "connect", _configure_reading if reading else _configure)
    event.listen(engine, "begin", _begin_reading if reading else _begin)
    return engine


def _configure(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    _set(
        connection,
        "journal_mode=WAL",
        "journal_size_limit=16777216",  # bytes that the journal keeps after an image went through it
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",
    )


def _configure_reading(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    _set(connection, "query_only=ON")


def _set(connection: DBAPIConnection, *settings: str) -> None:
    cursor = connection.cursor()
    for setting in settings:
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _begin(connection: Connection) -> None:
    # The driver would begin only before the first write, so that what was read until then could change.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _begin_reading(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _require_version(connection: Connection, path: Path) -> None:
    tables = set(inspect(connection).get_table_names())
    if not tables:
        METADATA.create_all(connection)
        connection.execute(insert(SCHEMA).values(version=SCHEMA_VERSION))
        return
    found = connection.execute(select(SCHEMA.c.version)).scalars().all() if SCHEMA.name in tables else []
    if list(found) != [SCHEMA_VERSION]:
        what = f"version {found[0]}" if found else "no version"
        raise StateForeign(
            f"`{path}` has {what} and this keyvisor reads version {SCHEMA_VERSION}: "
            "use the keyvisor that wrote it, or choose another --state"
        )


def _cause(error: SQLAlchemyError) -> str:
    cause = getattr(error, "orig", None)
    return str(cause).lower() if isinstance(cause, sqlite3.Error) else type(error).__name__
