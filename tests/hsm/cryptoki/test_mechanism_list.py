"""What a token lists, and what a module may not make of it."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from keyvisor_hsm.cryptoki import CKM, CKR, Module
from keyvisor_hsm.cryptoki.mechanism_list import MAX_MECHANISMS, MechanismInfo, list_mechanisms
from keyvisor_hsm.errors import ModuleRefused


def put(address: int, *values: int) -> None:
    ctypes.memmove(address, b"".join(value.to_bytes(8, "little") for value in values), 8 * len(values))


def a_module(types: tuple[int, ...], *, rv: int = CKR.OK, said: int | None = None) -> Module:
    """A module with these mechanisms; every odd one has no info."""

    def listed(_slot: int, place: int, count: int) -> int:
        if place:
            put(place, *types)
        put(count, len(types) if said is None else said)
        return rv

    def info(_slot: int, type_: int, place: int) -> int:
        put(place, type_, type_ + 1, type_ + 2)
        return CKR.MECHANISM_INVALID if type_ % 2 else CKR.OK

    return Module(Path("module"), {"C_GetMechanismList": listed, "C_GetMechanismInfo": info}, None)


def test_sizes_and_flags_are_told_by_type() -> None:
    assert list_mechanisms(a_module((CKM.AES_CBC,)), 0) == {
        CKM.AES_CBC: MechanismInfo(0x1082, 0x1083, 0x1084)
    }
    assert list_mechanisms(a_module(()), 0) == {}


def test_one_without_info_is_left_out() -> None:
    assert set(list_mechanisms(a_module((2, 3, 4)), 0)) == {2, 4}


def test_a_refusal_and_too_many_are_refused() -> None:
    with pytest.raises(ModuleRefused, match="C_GetMechanismList"):
        list_mechanisms(a_module((2,), rv=CKR.DEVICE_ERROR), 0)
    with pytest.raises(ModuleRefused):
        list_mechanisms(a_module((), said=MAX_MECHANISMS + 1), 0)
