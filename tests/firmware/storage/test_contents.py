"""Storage as rows of pages: any bytes of it read, written and cleared, beside a plain array; what nobody wrote is free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvisor_firmware.state.database import Database
from keyvisor_firmware.state.records import Records
from keyvisor_firmware.storage.contents import Contents
from keyvisor_firmware.storage.pages import PAGE, Span

SIZE = 6 * PAGE
FAR = (1 << 62) - SIZE


class Rollback(Exception):
    """Ends a transaction without a commit."""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    opened = Database.open(tmp_path_factory.mktemp("contents") / "state.db")
    yield opened
    opened.close()


@contextmanager
def given_up(database: Database) -> Iterator[Records]:
    """A transaction of which nothing stays."""
    with suppress(Rollback), database.transaction() as records:
        yield records
        raise Rollback


@pytest.fixture
def records(database: Database) -> Iterator[Records]:
    """Of a transaction of which nothing stays."""
    with given_up(database) as records:
        yield records


def rows(records: Records) -> set[int]:
    """The pages that cost anything."""
    return set(records.pages(0, (1 << 63) - 1))


edges = st.integers(0, SIZE) | st.sampled_from(
    [page * PAGE + by for page in range(6) for by in (0, 1, PAGE - 1)]
)
# Most of it zeros, so that pages become zeros again by being written.
texts = st.binary(max_size=40) | st.integers(0, 3 * PAGE).map(bytes) | st.binary(min_size=PAGE, max_size=PAGE)
steps = st.one_of(
    st.tuples(st.just("write"), edges, texts),
    st.tuples(
        st.just("put"), st.dictionaries(st.integers(0, 5), st.sampled_from([bytes(PAGE), b"\x5e" * PAGE]))
    ),
    st.tuples(st.just("clear"), st.integers(0, 5), st.integers(0, 6)),
)


@settings(max_examples=200, deadline=None)
@given(base=st.sampled_from([0, FAR]), steps=st.lists(steps, max_size=8), start=edges, end=edges)
def test_it_is_an_array_of_bytes(
    database: Database, base: int, steps: list[tuple[object, ...]], start: int, end: int
) -> None:
    shadow = bytearray(SIZE)
    with given_up(database) as records:
        contents = Contents(records)
        for step in steps:
            match step:
                case ("write", int(at), bytes(text)):
                    data = text[: SIZE - at]
                    contents.write(base + at, data)
                    shadow[at : at + len(data)] = data
                case ("put", dict(pages)):
                    contents.put({base + number * PAGE: content for number, content in pages.items()})
                    for number, content in pages.items():
                        shadow[number * PAGE : (number + 1) * PAGE] = content
                case ("clear", int(first), int(last)):
                    contents.clear(Span(base + first * PAGE, max(last - first, 0) * PAGE))
                    shadow[first * PAGE : last * PAGE] = bytes(max(last - first, 0) * PAGE)
        assert contents.read(Span(base, SIZE)) == shadow
        low, high = sorted((start, end))
        assert contents.read(Span(base + low, high - low)) == shadow[low:high]
        filled = {at for at in range(0, SIZE, PAGE) if any(shadow[at : at + PAGE])}
        assert rows(records) == {base + at for at in filled}, "zeros cost nothing"


def test_terabytes_that_nobody_wrote_cost_nothing(records: Records) -> None:
    contents = Contents(records)
    assert contents.read(Span(1 << 61, 3)) == bytes(3)
    contents.write((1 << 61) + 5, b"here")
    contents.clear(Span(0, 1 << 61))
    assert rows(records) == {1 << 61}
    assert contents.read(Span((1 << 61) + 4, 6)) == b"\x00here\x00"


def test_what_stands_around_what_is_written_stays(records: Records) -> None:
    contents = Contents(records)
    contents.write(0, b"\xaa" * 3 * PAGE)
    contents.write(PAGE - 2, b"four")
    contents.write(2 * PAGE, bytes(PAGE))
    assert contents.read(Span(0, 3 * PAGE)) == (
        b"\xaa" * (PAGE - 2) + b"four" + b"\xaa" * (PAGE - 2) + bytes(PAGE)
    )
    assert rows(records) == {0, PAGE}
    contents.write(7, b"")
    contents.write(9 * PAGE, b"")
    assert rows(records) == {0, PAGE}


def test_a_transaction_that_is_given_up_wrote_nothing(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "state.db")
    with database.transaction() as records:
        Contents(records).write(0, b"before")

    with given_up(database) as records:
        Contents(records).write(0, b"never" * 3000)
        Contents(records).clear(Span(0, PAGE))
    with database.transaction() as records:
        assert Contents(records).read(Span(0, 8)) == b"before\x00\x00"
        assert rows(records) == {0}
    database.close()
