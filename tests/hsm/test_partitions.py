"""Key partitions: made whole, opened with the right keys only, by one process at a time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyvisor_hsm.cryptoki import CKA, CKR, Module
from keyvisor_hsm.cryptoki.flags import CKF_TOKEN_INITIALIZED, CKF_USER_PIN_INITIALIZED
from keyvisor_hsm.cryptoki.native import ULONG, Attribute, Memory, Template, Ulongs
from keyvisor_hsm.errors import PartitionUnusable
from keyvisor_hsm.partitions import Partition, PartitionKeys, open_session

KEYS = PartitionKeys("p", b"user pin of the test", b"so pin of the test!!")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "partitions" / "p"


@pytest.fixture
def opened(place: Path, softhsm: Path) -> Iterator[Partition]:
    partition = Partition.open(place, KEYS, softhsm)
    yield partition
    partition.close()


def make_private_object(partition: Partition, label: bytes) -> None:
    session = open_session(partition.module, partition.slot)
    attributes = ((CKA.CLASS, bytes(8)), (CKA.TOKEN, b"\1"), (CKA.PRIVATE, b"\1"), (CKA.LABEL, label))
    template, made = Template([Attribute(*one) for one in attributes]), Ulongs(1)
    partition.module.require("C_CreateObject", session, template.address, template.count, made.address)


def count(partition: Partition, label: bytes) -> int:
    session = open_session(partition.module, partition.slot)
    template, found, number = Template([Attribute(CKA.LABEL, label)]), Ulongs(64), Ulongs(1)
    partition.module.require("C_FindObjectsInit", session, template.address, template.count)
    partition.module.require("C_FindObjects", session, found.address, 64, number.address)
    return number[0]


def flags(partition: Partition) -> int:
    info = Memory(208)
    partition.module.require("C_GetTokenInfo", partition.slot, info.address)
    value: int = ULONG.unpack(info.read(96, 8))[0]
    return value


def test_a_new_partition_is_made_whole_and_logged_in(opened: Partition) -> None:
    assert flags(opened) & CKF_TOKEN_INITIALIZED
    assert flags(opened) & CKF_USER_PIN_INITIALIZED
    make_private_object(opened, b"x")  # which only a logged-in token takes
    assert count(opened, b"x") == 1


def test_its_objects_are_there_the_next_time(place: Path, softhsm: Path) -> None:
    for expected in (0, 1, 2):
        partition = Partition.open(place, KEYS, softhsm)
        assert count(partition, b"kept") == expected
        make_private_object(partition, b"kept")
        partition.close()
    assert len(list((place / "tokens").iterdir())) == 1


@pytest.mark.parametrize(
    "wrong", [b"user pin of the tesT", b"", b"user pin of the test\0", b"so pin of the test!!"]
)
def test_another_user_pin_does_not_open_it(wrong: bytes, place: Path, softhsm: Path) -> None:
    Partition.open(place, KEYS, softhsm).close()
    with pytest.raises(PartitionUnusable, match="C_Login answered") as refused:
        Partition.open(place, PartitionKeys("p", wrong, KEYS.so_pin), softhsm)
    assert wrong.decode() not in str(refused.value) or not wrong
    Partition.open(place, KEYS, softhsm).close()  # nothing was locked or lost


def test_the_pins_are_in_no_error_and_no_repr() -> None:
    assert repr(KEYS) == "PartitionKeys(directory='p')"


def test_the_pins_are_nowhere_in_the_directory(place: Path, opened: Partition) -> None:
    make_private_object(opened, b"x")
    files = [path for path in place.rglob("*") if path.is_file()]
    assert len(files) > 4
    for path in files:
        content = path.read_bytes()
        assert KEYS.user_pin not in content
        assert KEYS.so_pin not in content


def test_a_private_objects_values_are_nowhere_in_the_directory(place: Path, opened: Partition) -> None:
    make_private_object(opened, b"label that is a secret too")
    assert not any(b"label that is" in path.read_bytes() for path in place.rglob("*") if path.is_file())


def test_only_the_owner_reaches_what_is_in_it(place: Path, opened: Partition) -> None:
    make_private_object(opened, b"x")
    assert (place.parent.stat().st_mode & 0o777, place.stat().st_mode & 0o777) == (0o700, 0o700)
    assert (place / "tokens").stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in (place / "tokens").rglob("*"))


# --- what a crash leaves behind


class Crash(BaseException):
    """The process ends here."""


def crash_at(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require = Module.require

    def until(module: Module, name: str, *arguments: int) -> None:
        if name == call:
            raise Crash
        require(module, name, *arguments)

    monkeypatch.setattr(Module, "require", until)


@pytest.mark.parametrize("call", ["C_InitToken", "C_InitPIN", "C_Login", "C_GetSlotList"])
def test_a_token_that_is_half_made_is_finished(
    call: str, place: Path, softhsm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        crash_at(call, patch)
        with pytest.raises(Crash):
            Partition.open(place, KEYS, softhsm)
    partition = Partition.open(place, KEYS, softhsm)
    assert flags(partition) & CKF_USER_PIN_INITIALIZED
    make_private_object(partition, b"x")
    partition.close()
    assert len(list((place / "tokens").iterdir())) == 1


def test_a_half_made_token_is_not_finished_with_other_keys(
    place: Path, softhsm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        crash_at("C_InitPIN", patch)
        with pytest.raises(Crash):
            Partition.open(place, KEYS, softhsm)
    with pytest.raises(PartitionUnusable, match="C_Login answered 0xa0"):
        Partition.open(place, PartitionKeys("p", KEYS.user_pin, b"another so pin"), softhsm)
    Partition.open(place, KEYS, softhsm).close()


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_a_damaged_token_is_not_replaced_by_an_empty_one(damage: str, place: Path, softhsm: Path) -> None:
    """Else all keys would seem to be gone, and the guest would make new ones."""
    Partition.open(place, KEYS, softhsm).close()
    (token,) = (place / "tokens").rglob("token.object")
    whole = token.read_bytes()
    token.write_bytes(whole[:3])
    if damage == "gone":
        token.unlink()
    said = {"gone": "damaged or gone; put `p` back from a copy", "truncated": "C_GetTokenInfo answered"}
    with pytest.raises(PartitionUnusable, match=said[damage]):
        Partition.open(place, KEYS, softhsm)
    token.write_bytes(whole)
    Partition.open(place, KEYS, softhsm).close()


def test_a_failed_opening_leaves_the_instance_finalised(
    place: Path, softhsm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Module] = []
    private = Module.load_private

    def noted(path: Path) -> Module:
        used.append(private(path))
        return used[-1]

    Partition.open(place, KEYS, softhsm).close()
    monkeypatch.setattr(Module, "load_private", noted)
    with pytest.raises(PartitionUnusable):
        Partition.open(place, PartitionKeys("p", b"wrong pin", b"wrong pin"), softhsm)
    assert used[0].call["C_CloseSession"](1) == CKR.CRYPTOKI_NOT_INITIALIZED


def test_what_is_no_module_makes_no_partition(place: Path, tmp_path: Path) -> None:
    with pytest.raises(PartitionUnusable, match="cannot be copied"):
        Partition.open(place, KEYS, tmp_path / "missing.so")


def test_a_directory_that_cannot_be_made_is_said_so(softhsm: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PartitionUnusable, match="does not open"):
        Partition.open(tmp_path / "file" / "p", KEYS, softhsm)


# --- several processes

_ROUNDS = 12
_CHILD = """
import sys
from pathlib import Path
from keyvisor_hsm.cryptoki import CKA
from keyvisor_hsm.cryptoki.native import Attribute, Template, Ulongs
from keyvisor_hsm.partitions import Partition, PartitionKeys, open_session
place, library, user, so, rounds = sys.argv[1:]
for round_ in range(int(rounds)):
    p = Partition.open(Path(place), PartitionKeys("p", user.encode(), so.encode()), Path(library))
    s = open_session(p.module, p.slot)
    t, found, count = Template([Attribute(CKA.LABEL, b"shared")]), Ulongs(8), Ulongs(1)
    p.module.require("C_FindObjectsInit", s, t.address, t.count)
    p.module.require("C_FindObjects", s, found.address, 8, count.address)
    assert count[0] == 1, count[0]
    p.close()
"""


def start_child(place: Path, softhsm: Path, rounds: int) -> subprocess.Popen[str]:
    arguments = [str(place), str(softhsm), KEYS.user_pin.decode(), KEYS.so_pin.decode(), str(rounds)]
    command = [sys.executable, "-W", "error", "-c", _CHILD, *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_hazard_12_4_processes_that_open_one_partition_at_once(
    place: Path, softhsm: Path, opened: Partition
) -> None:
    """Each login rewrites the token's file; without the lock most of these rounds see no token."""
    make_private_object(opened, b"shared")
    children = [start_child(place, softhsm, _ROUNDS) for _ in range(3)]
    assert [(child.communicate(timeout=60)[1], child.returncode) for child in children] == [("", 0)] * 3


def test_processes_that_make_one_partition_at_once_make_one_token(place: Path, softhsm: Path) -> None:
    children = [start_child(place, softhsm, 1) for _ in range(3)]
    said = [child.communicate(timeout=60)[1] for child in children]
    assert all("AssertionError: 0" in one for one in said), said  # all of them opened it, and it is empty
    assert len(list((place / "tokens").iterdir())) == 1
