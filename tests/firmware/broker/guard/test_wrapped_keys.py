"""The record of wrapped keys: shared, authenticated, bounded; what is damaged is unknown, never trusted."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyvisor_firmware.broker.errors import Refused
from keyvisor_firmware.broker.guard.roles import Role
from keyvisor_firmware.broker.guard.wrapped_keys import NAME, SIZE, WrappedKey, WrappedKeys

KEY = b"k" * 32
DATA = WrappedKey(4, 0x1F, Role.DATA, sensitive=True, wrap_with_trusted=False)
OPEN = WrappedKey(4, 0x1F, Role.DATA, sensitive=False, wrap_with_trusted=False)
KW = 0x2109


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "partition"


def test_what_was_added_is_found_by_everybody_who_has_the_key(home: Path) -> None:
    first, second = WrappedKeys(home, KEY), WrappedKeys(home, KEY)
    assert first.find(KW, b"blob") is None
    first.add(KW, b"blob", DATA)
    assert second.find(KW, b"blob") == DATA
    second.add(KW, b"other", OPEN)
    assert first.find(KW, b"other") == OPEN
    assert WrappedKeys(home, KEY).find(KW, b"blob") == DATA
    assert WrappedKeys(home, b"x" * 32).find(KW, b"blob") is None
    assert first.find(KW + 1, b"blob") is None


def test_the_same_blob_needs_one_record_and_only_gets_stricter(home: Path) -> None:
    records = WrappedKeys(home, KEY)
    for was in (OPEN, OPEN, DATA, OPEN):
        records.add(KW, b"blob", was)
    assert (home / NAME).stat().st_size == 2 * SIZE
    assert WrappedKeys(home, KEY).find(KW, b"blob") == DATA
    other = WrappedKey(4, 0x1F, Role.WRAPPING, sensitive=False, wrap_with_trusted=True)
    records.add(KW, b"blob", other)
    assert WrappedKeys(home, KEY).find(KW, b"blob") == WrappedKey(4, 0x1F, Role.NEITHER, True, True)


def test_a_full_record_refuses_and_names_the_way_out(home: Path) -> None:
    records = WrappedKeys(home, KEY, most=2)
    records.add(KW, b"1", DATA)
    records.add(KW, b"2", DATA)
    with pytest.raises(Refused, match="CKM_AES_KEY_WRAP"):
        records.add(KW, b"3", DATA)
    records.add(KW, b"2", DATA)


@pytest.mark.parametrize("at", range(SIZE))
def test_any_flipped_byte_makes_its_blob_unknown_and_no_other(home: Path, at: int) -> None:
    records = WrappedKeys(home, KEY)
    records.add(KW, b"1", DATA)
    records.add(KW, b"2", DATA)
    data = bytearray((home / NAME).read_bytes())
    data[at] ^= 1
    (home / NAME).write_bytes(data)
    again = WrappedKeys(home, KEY)
    assert (again.find(KW, b"1"), again.find(KW, b"2")) == (None, DATA)


@pytest.mark.parametrize("left", [1, SIZE // 2, SIZE - 1])
def test_a_torn_record_is_cut_off_by_the_next(home: Path, left: int) -> None:
    records = WrappedKeys(home, KEY)
    records.add(KW, b"1", DATA)
    whole = (home / NAME).read_bytes()
    (home / NAME).write_bytes(whole + whole[:left])
    again = WrappedKeys(home, KEY)
    again.add(KW, b"2", DATA)
    assert (home / NAME).stat().st_size == 2 * SIZE
    assert WrappedKeys(home, KEY).find(KW, b"2") == DATA


def test_the_file_tells_nothing(home: Path) -> None:
    WrappedKeys(home, KEY).add(KW, b"a blob that is long enough to be seen", DATA)
    content = (home / NAME).read_bytes()
    assert b"blob" not in content
    assert KEY not in content
    assert (home / NAME).stat().st_mode & 0o77 == 0
