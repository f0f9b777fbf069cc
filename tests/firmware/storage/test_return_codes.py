"""Every code is one number of its call, and says what is wrong and what to do."""

from __future__ import annotations

import itertools

import pytest

from keyvisor_firmware.errors import AccessRefused, StorageRefused
from keyvisor_firmware.storage.donations import CPU_CHECKS, GUEST_CHECKS, HOST_SIDE_CHECKS, INIT_CHECKS
from keyvisor_firmware.storage.return_codes import (
    ACCESS_MEANINGS,
    MEANINGS,
    NEEDS_DESTROY,
    AccessCode,
    Scope,
    StorageCode,
)


def test_every_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(StorageCode)
    assert set(ACCESS_MEANINGS) == set(AccessCode)


def test_no_number_means_two_things_to_one_call() -> None:
    for one, other in itertools.combinations(StorageCode, 2):
        if one.scope is other.scope or Scope.EVERY in (one.scope, other.scope):
            assert one.number != other.number
    assert all(0 < code.number < NEEDS_DESTROY for code in StorageCode)


@pytest.mark.parametrize(
    ("codes", "scope"),
    [
        ([code for code, _ in INIT_CHECKS], Scope.INIT),
        ([code for code, _ in GUEST_CHECKS], Scope.CREATE_GUEST),
        ([code for code, _ in HOST_SIDE_CHECKS], Scope.CREATE_GUEST),
        ([code for code, _ in CPU_CHECKS], Scope.CREATE_CPU),
    ],
)
def test_a_calls_checks_have_its_own_codes_or_those_of_every_call(
    codes: list[StorageCode], scope: Scope
) -> None:
    assert {code.scope for code in codes} <= {scope, Scope.EVERY}


def test_the_numbers_of_the_formats_are_theirs() -> None:
    documented = {
        Scope.INIT: {0x0101, 0x0103, 0x0104, 0x0105, 0x0108},
        Scope.CREATE_GUEST: {0x0101, 0x0102, 0x0104, 0x0105, 0x0108, 0x0109, 0x010C, 0x010D},
        Scope.CREATE_CPU: {0x0103, 0x0104, 0x0105, 0x0106},
        Scope.EVERY: {0x0003, 0x0020, 0x0021, 0x0031, 0x0032},
    }
    for scope, numbers in documented.items():
        assert {
            code.number for code in StorageCode if code.scope is scope and code.number < 0x0180
        } == numbers


@pytest.mark.parametrize("code", StorageCode)
def test_a_refusal_is_one_line_with_reason_way_out_and_number(code: StorageCode) -> None:
    refused = StorageRefused(code, "it is so")
    meaning = MEANINGS[code]
    assert str(refused) == f"{meaning.text}: it is so; {meaning.way_out} ({code.number:#06x})"
    assert "\n" not in str(refused)
    assert (refused.code, refused.handle) == (code.number, None)
    assert not meaning.way_out.endswith(".")


def test_part1_T13_what_was_created_half_is_named_and_must_be_destroyed() -> None:
    refused = StorageRefused(StorageCode.SCA_ZERO, "its address is 0").needing_destroy(0xABC)
    assert (refused.code, refused.handle, refused.why) == (0x810C, 0xABC, StorageCode.SCA_ZERO)
    assert "its address is 0; destroy what was created half, by its handle 0xabc; then" in str(refused)
    assert str(refused).endswith("(0x810c)")


def test_a_refused_access_says_where_and_which_interruption() -> None:
    refused = AccessRefused(AccessCode.SECURE_STORAGE_ACCESS, 0x5000)
    assert (refused.code, refused.address) == (0x3D, 0x5000)
    assert str(refused).startswith("the storage is secure at 0x5000; ")
    assert str(refused).endswith("(program interruption 3d)")
