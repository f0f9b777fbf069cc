"""What a door answers to a storage call that is refused, and to an access that ends in an interruption."""

from __future__ import annotations

from keyvisor_firmware.doors.problems import problem_of
from keyvisor_firmware.errors import AccessRefused, StorageRefused
from keyvisor_firmware.storage.return_codes import AccessCode, StorageCode


def test_a_refused_storage_call_has_its_number_and_no_handle() -> None:
    answer = problem_of(StorageRefused(StorageCode.BASE_UNUSABLE))
    assert answer is not None
    status, problem = answer
    assert (status, problem.kind, problem.code, problem.handle) == (409, "uv", 0x0108, None)


def test_part1_T13_a_call_that_left_something_behind_names_it() -> None:
    answer = problem_of(StorageRefused(StorageCode.ASCE_IN_USE, handle=0xABC))
    assert answer is not None
    status, problem = answer
    assert (status, problem.kind, problem.code, problem.handle) == (409, "uv", 0x8104, 0xABC)


def test_a_refused_access_is_a_program_interruption() -> None:
    answer = problem_of(AccessRefused(AccessCode.SECURE_STORAGE_ACCESS, 0x5000))
    assert answer is not None
    status, problem = answer
    assert (status, problem.kind, problem.code) == (409, "program", 0x3D)
    assert "0x5000" in problem.message
