"""The file of a partition's PINs: whole or not at all, one writer at a time, and nobody is let in by a damaged one."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_firmware.broker.errors import Failed, Refused
from keyvisor_firmware.broker.pin_file import NAME, PinFile, dump, parse
from keyvisor_firmware.broker.pins import MAX_TRIES, Pin, PinHash, TokenPins, Who, WrongPin, changed, verified
from keyvisor_hsm.cryptoki import CKR

RIGHT, WRONG = PinHash(bytes(16), bytes(32)), PinHash(bytes(16), bytes(31) + b"\1")
WHOLE = TokenPins(b"payments".ljust(32), Pin(PinHash(b"s" * 16, b"d" * 32), 2), Pin(RIGHT, 1))

_HASHES = st.builds(PinHash, st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32))
_PINS = st.builds(Pin, _HASHES, st.integers(0, MAX_TRIES))
_LABELS = st.binary(min_size=32, max_size=32)
_USERS = st.none() | _PINS
_RECORDS = st.builds(TokenPins, _LABELS, _PINS, _USERS) | st.builds(TokenPins, st.none(), st.none(), _USERS)


@pytest.fixture
def file(tmp_path: Path) -> PinFile:
    return PinFile(tmp_path)


def with_user(file: PinFile) -> PinFile:
    file.change(lambda record: changed(record, Who.USER, RIGHT))
    return file


def try_user(file: PinFile, tried: PinHash) -> int:
    """One try; the CK_RV that an application gets."""
    try:
        file.change(lambda record: verified(record, Who.USER, tried))
    except Refused as refused:
        return refused.rv
    return CKR.OK


@given(_RECORDS)
def test_a_record_comes_back_as_it_was(record: TokenPins) -> None:
    assert parse(dump(record)) == record


def test_no_file_is_no_pin_where_the_partition_is(file: PinFile, tmp_path: Path) -> None:
    assert file.read() == TokenPins()
    with pytest.raises(Refused) as refused:
        PinFile(tmp_path / "gone").read()
    assert refused.value.rv == CKR.DEVICE_ERROR


def test_what_was_changed_is_there_for_the_next_who_opens_it(file: PinFile, tmp_path: Path) -> None:
    with_user(file)
    assert PinFile(tmp_path).read() == TokenPins(user=Pin(RIGHT))


def test_only_the_owner_reads_it_and_nothing_is_left_beside_it(file: PinFile, tmp_path: Path) -> None:
    (tmp_path / "application.new").write_bytes(b"of a process that died")
    with_user(file)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, "lock"]


def test_a_wrong_pin_is_counted_on_disk_and_the_right_one_clears_it(file: PinFile, tmp_path: Path) -> None:
    with_user(file)
    assert try_user(file, WRONG) == CKR.PIN_INCORRECT
    user = PinFile(tmp_path).read().user
    assert user == Pin(RIGHT, 1)
    assert try_user(file, RIGHT) == CKR.OK
    assert PinFile(tmp_path).read().user == Pin(RIGHT, 0)


def test_a_step_that_fails_changes_nothing(file: PinFile, tmp_path: Path) -> None:
    with_user(file)
    before = (tmp_path / NAME).read_bytes()

    def fail(_: TokenPins) -> TokenPins:
        raise Failed(CKR.SESSION_EXISTS, "no")

    with pytest.raises(Failed):
        file.change(fail)
    assert (tmp_path / NAME).read_bytes() == before


def test_a_full_disk_tells_nobody_whether_the_pin_was_right(
    file: PinFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_user(file)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert try_user(file, RIGHT) == try_user(file, WRONG) == CKR.DEVICE_ERROR
    assert PinFile(tmp_path).read().user == Pin(RIGHT)
    assert try_user(file, RIGHT) == CKR.OK


def test_tries_at_the_same_time_are_all_counted(file: PinFile, tmp_path: Path) -> None:
    with_user(file)
    answers: list[int] = []
    together = threading.Barrier(2 * MAX_TRIES)

    def attempt() -> None:
        together.wait()
        answers.append(try_user(PinFile(tmp_path), WRONG))

    threads = [threading.Thread(target=attempt) for _ in range(2 * MAX_TRIES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [CKR.PIN_INCORRECT] * MAX_TRIES + [CKR.PIN_LOCKED] * MAX_TRIES


def test_two_partitions_have_nothing_in_common(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with_user(PinFile(tmp_path / "one"))
    assert PinFile(tmp_path / "two").read() == TokenPins()


# --- damage


def altered(**changes: object) -> bytes:
    """The whole record's file, some fields replaced, written just as `dump` writes."""
    return json.dumps(json.loads(dump(WHOLE)) | changes, indent=2).encode() + b"\n"


DAMAGE = {
    "empty": b"",
    "cut": dump(WHOLE)[:-2],
    "longer": dump(WHOLE) + b" ",
    "huge": dump(WHOLE) + b" " * 10_000,
    "no JSON": b"\xff\0",
    "deep": b"[" * 4096,
    "a list": b"[]",
    "of another version": altered(version=2),
    "without a user": json.dumps({"version": 1, "label": None, "so": None}).encode(),
    "with more": altered(more=1),
    "a label without an SO": altered(so=None),
    "an SO without a label": altered(label=None),
    "a short label": altered(label="00"),
    "no hexadecimal": altered(label="zz" * 32),
    "a number for a label": altered(label=7),
    "a text for a PIN": altered(user="1234"),
    **{
        f"user PIN with {field} {value!r}": altered(user=json.loads(dump(WHOLE))["user"] | {field: value})
        for field, value in [
            ("salt", ""), ("salt", "00" * 17), ("digest", "00" * 31), ("digest", None), ("wrong", -1),
            ("wrong", MAX_TRIES + 1), ("wrong", "1"), ("wrong", True), ("wrong", 1.0), ("wrong", None),
        ]
    },
}  # fmt: skip


def test_the_whole_one_is_taken() -> None:
    assert parse(altered()) == WHOLE


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_lets_nobody_in_and_is_left_alone(what: str, file: PinFile, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(DAMAGE[what])
    with pytest.raises(Refused, match="damaged") as refused:
        file.read()
    assert refused.value.rv == CKR.DEVICE_ERROR
    assert try_user(file, RIGHT) == CKR.DEVICE_ERROR
    assert (tmp_path / NAME).read_bytes() == DAMAGE[what]


def test_a_file_that_cannot_be_read_lets_nobody_in(file: PinFile, tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(Refused, match="cannot be read") as refused:
        file.read()
    assert refused.value.rv == CKR.DEVICE_ERROR


def test_a_wrong_pin_carries_what_is_to_be_kept() -> None:
    with pytest.raises(WrongPin) as wrong:
        verified(WHOLE, Who.USER, WRONG)
    assert wrong.value.counted == dataclasses.replace(WHOLE, user=Pin(RIGHT, 2))
