"""The binding: complete against the header, and instances that share nothing."""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyvisor_hsm.cryptoki import CKA, CKR, FUNCTIONS, FUNCTIONS_3_0, Module
from keyvisor_hsm.cryptoki.module import bind, environment, interface_3_0
from keyvisor_hsm.cryptoki.native import ULONG, Attribute, Query, Template, Ulongs
from keyvisor_hsm.errors import ModuleRefused, ModuleUnusable
from keyvisor_hsm.partitions import Partition, PartitionKeys, open_session

CKO_DATA = 0


def test_the_function_list_is_the_headers(header: str) -> None:
    structure = re.search(r"struct ck_function_list\n\{(.*?)\};", header, re.DOTALL)
    assert structure is not None
    assert re.findall(r"CK_(C_\w+) \1;", structure[1]) == [name for name, _ in FUNCTIONS]


def test_the_numbers_of_arguments_are_the_headers(header: str) -> None:
    declared = re.findall(r"_CK_DECLARE_FUNCTION \((C_\w+),\s*\((.*?)\)\);", header, re.DOTALL)
    assert {name: arguments.count(",") + 1 for name, arguments in declared} == dict(FUNCTIONS)


def test_every_function_is_there_and_answers(softhsm: Path) -> None:
    module = Module.load(softhsm)
    assert module.call.keys() == {name for name, _ in FUNCTIONS}
    assert module.call["C_GetFunctionStatus"](1) in (CKR.FUNCTION_NOT_PARALLEL, CKR.CRYPTOKI_NOT_INITIALIZED)


@pytest.mark.parametrize("what", ["nothing", "text", "library without C_GetFunctionList"])
def test_what_is_no_module_is_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "module.so"
    if what == "text":
        path.write_text("no library")
    if what == "library without C_GetFunctionList":
        path = Path("libc.so.6")
    with pytest.raises(ModuleUnusable, match=r"module\.so|libc"):
        Module.load(path)


def test_a_private_instance_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModuleUnusable, match="cannot be copied: No such file"):
        Module.load_private(tmp_path / "missing.so")


def test_a_private_instance_of_no_module_names_what_was_configured(tmp_path: Path) -> None:
    """Not the copy of it that is mapped, which is gone by the time that somebody reads the name."""
    path = tmp_path / "passwd"
    path.write_text("root:x:0:0\n")
    with pytest.raises(ModuleUnusable) as refused:
        Module.load_private(path)
    assert str(refused.value).startswith(f"`{path}` is not a PKCS#11 module (passwd: ")
    assert str(refused.value).endswith("let `module` name one")
    assert "keyvisor-module-" not in str(refused.value)


def test_a_refusal_of_the_module_names_the_call_and_its_answer(softhsm: Path) -> None:
    with pytest.raises(ModuleRefused, match="C_CloseSession answered 0x190") as refused:
        Module.load_private(softhsm).require("C_CloseSession", 1)
    assert refused.value.rv == CKR.CRYPTOKI_NOT_INITIALIZED


# --- the environment


def test_the_environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYVISOR_TEST_A", "before")
    monkeypatch.delenv("KEYVISOR_TEST_B", raising=False)
    with environment({"KEYVISOR_TEST_A": "x", "KEYVISOR_TEST_B": "y"}):
        assert (os.environ["KEYVISOR_TEST_A"], os.environ["KEYVISOR_TEST_B"]) == ("x", "y")
    assert os.environ["KEYVISOR_TEST_A"] == "before"
    assert "KEYVISOR_TEST_B" not in os.environ


def test_only_one_thread_at_a_time_sets_the_environment() -> None:
    entered = threading.Event()

    def other() -> None:
        with environment({"KEYVISOR_TEST_C": "theirs"}):
            entered.set()

    thread = threading.Thread(target=other)
    with environment({"KEYVISOR_TEST_C": "ours"}):
        thread.start()
        assert not entered.wait(0.02)
        assert os.environ["KEYVISOR_TEST_C"] == "ours"
    thread.join(10)
    assert entered.is_set()


# --- private instances


@pytest.fixture
def two(softhsm: Path, tmp_path: Path) -> Iterator[tuple[Partition, Partition]]:
    """Two partitions open in this process."""
    opened = tuple(
        Partition.open(tmp_path / name, PartitionKeys(name, name.encode() * 4, b"so" * 4), softhsm)
        for name in ("left", "right")
    )
    yield opened[0], opened[1]
    for partition in opened:
        partition.close()


def make_object(partition: Partition, session: int, label: bytes) -> int:
    template = Template(
        [
            Attribute(CKA.CLASS, ULONG.pack(CKO_DATA)),
            Attribute(CKA.TOKEN, b"\1"),
            Attribute(CKA.PRIVATE, b"\0"),
            Attribute(CKA.LABEL, label),
        ]
    )
    handle = Ulongs(1)
    partition.module.require("C_CreateObject", session, template.address, template.count, handle.address)
    return handle[0]


def label_of(partition: Partition, session: int, handle: int) -> tuple[int, object]:
    query = Query([(CKA.LABEL, 64)])
    rv = partition.module.call["C_GetAttributeValue"](session, handle, query.address, query.count)
    return rv, query.answer(0)[1]


def test_hazard_12_1_an_object_cannot_be_named_in_another_instance(two: tuple[Partition, Partition]) -> None:
    """In one instance of SoftHSM 2.6.1 any session reaches the objects of any token: here it has no such number."""
    left, right = two
    ours, theirs = open_session(left.module, left.slot), open_session(right.module, right.slot)
    made = make_object(left, ours, b"in the left one")
    assert label_of(left, ours, made) == (CKR.OK, b"in the left one")
    numbers = range(made + 64)
    assert {label_of(right, theirs, number)[0] for number in numbers} == {CKR.OBJECT_HANDLE_INVALID}
    assert {right.module.call["C_DestroyObject"](theirs, number) for number in numbers} == {
        CKR.OBJECT_HANDLE_INVALID
    }
    assert label_of(left, ours, made) == (CKR.OK, b"in the left one")


def test_the_same_number_names_two_objects_in_two_instances(two: tuple[Partition, Partition]) -> None:
    made: dict[int, list[object]] = {}
    for partition, label in zip(two, (b"one", b"two"), strict=True):
        session = open_session(partition.module, partition.slot)
        handle = make_object(partition, session, label)
        made.setdefault(handle, []).append(label_of(partition, session, handle)[1])
    assert list(made.values()) == [[b"one", b"two"]]


def test_an_end_of_one_instance_is_no_end_of_the_other(two: tuple[Partition, Partition]) -> None:
    left, right = two
    session = open_session(right.module, right.slot)
    left.module.call["C_Finalize"](0)
    assert label_of(right, session, make_object(right, session, b"x")) == (CKR.OK, b"x")


def test_a_retired_instance_is_used_again_and_knows_nothing(softhsm: Path, tmp_path: Path) -> None:
    """What is mapped stays mapped, so bind and associate in a loop must not map a copy each time."""
    first = Partition.open(tmp_path / "a", PartitionKeys("a", b"a" * 8, b"s" * 8), softhsm)
    session = open_session(first.module, first.slot)
    handle = make_object(first, session, b"of the first")
    first.close()
    second = Partition.open(tmp_path / "b", PartitionKeys("b", b"b" * 8, b"s" * 8), softhsm)
    assert second.module is first.module
    assert second.module.call["C_CloseSession"](session + 64) == CKR.SESSION_HANDLE_INVALID
    fresh = open_session(second.module, second.slot)
    assert label_of(second, fresh, handle)[0] == CKR.OBJECT_HANDLE_INVALID
    second.close()


def test_an_instance_in_use_is_not_handed_out_again(softhsm: Path) -> None:
    first, second = Module.load_private(softhsm), Module.load_private(softhsm)
    assert first is not second
    first.retire()
    second.retire()
    assert {Module.load_private(softhsm), Module.load_private(softhsm)} == {first, second}


# --- PKCS#11 3.0


class Library:
    """A library with C_GetInterface: a function list of `version`, whose every function answers its place in it."""

    def __init__(self, version: int, *, by_version: bool = True) -> None:
        self._kept: list[object] = []
        counts = [count for _, count in FUNCTIONS + FUNCTIONS_3_0]
        self._list = Ulongs(1 + len(counts))
        self._list.write(0, bytes((version, 0)))
        for place, count in enumerate(counts, 1):
            function = ctypes.CFUNCTYPE(ctypes.c_ulong, *[ctypes.c_ulong] * count)(
                lambda *_, place=place: place
            )
            self._kept.append(function)
            address = ctypes.cast(function, ctypes.c_void_p).value or 0
            self._list.write(8 * place, ULONG.pack(address))
        self._interface = Ulongs(3)
        self._interface.write(8, ULONG.pack(self._list.address))
        self._by_version = by_version
        arguments = (ctypes.c_char_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_ulong)
        self.C_GetInterface = ctypes.CFUNCTYPE(ctypes.c_ulong, *arguments)(self._get)

    def _get(self, name: bytes, version: int | None, found: Any, flags: int) -> int:
        assert (name, flags) == (b"PKCS 11", 0)
        if version is not None:
            assert ctypes.string_at(version, 2) == b"\3\0"
            if not self._by_version:
                return int(CKR.FUNCTION_FAILED)
        found[0] = self._interface.address
        return 0


@pytest.mark.parametrize("by_version", [True, False])
def test_the_functions_of_3_0_are_found_behind_those_of_2_40(by_version: bool) -> None:
    library = Library(3, by_version=by_version)
    address = interface_3_0(library)
    functions = bind(address, FUNCTIONS + FUNCTIONS_3_0)
    assert functions.keys() == dict(FUNCTIONS + FUNCTIONS_3_0).keys()
    assert functions["C_Initialize"](0) == 1
    assert functions["C_LoginUser"](*range(6)) == len(FUNCTIONS) + 3
    assert functions["C_MessageVerifyFinal"](1) == len(FUNCTIONS + FUNCTIONS_3_0)


def test_an_interface_of_another_version_is_not_taken_for_3_0() -> None:
    assert interface_3_0(Library(2)) == 0


def test_a_module_without_interfaces_has_none(softhsm: Path) -> None:
    assert interface_3_0(ctypes.CDLL(str(softhsm))) == 0
    assert "C_LoginUser" not in Module.load(softhsm).call
