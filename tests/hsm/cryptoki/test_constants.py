"""Every constant against PKCS#11's own header."""

from __future__ import annotations

import enum

import pytest

from keyvisor_hsm.cryptoki import CKA, CKK, CKM, CKO, CKR, flags

_ENUMS = [("CKR", CKR), ("CKA", CKA), ("CKM", CKM), ("CKK", CKK), ("CKO", CKO)]


@pytest.mark.parametrize(("prefix", "ours"), _ENUMS)
def test_every_number_is_the_headers(prefix: str, ours: type[enum.IntEnum], defined: dict[str, int]) -> None:
    theirs = {name: value for name, value in defined.items() if name.startswith(f"{prefix}_")}
    wrong = {
        name: (int(value), theirs[f"{prefix}_{name}"])
        for name, value in ours.__members__.items()
        if f"{prefix}_{name}" in theirs and theirs[f"{prefix}_{name}"] != value
    }
    assert wrong == {}
    assert len(theirs.keys() & {f"{prefix}_{name}" for name in ours.__members__}) > (
        70 if prefix in ("CKR", "CKA", "CKM") else 8
    )


@pytest.mark.parametrize(("prefix", "ours"), _ENUMS)
def test_no_number_of_the_header_is_missing(
    prefix: str, ours: type[enum.IntEnum], defined: dict[str, int]
) -> None:
    missing = {
        name
        for name in defined
        if name.startswith(f"{prefix}_") and name.removeprefix(f"{prefix}_") not in ours.__members__
    }
    assert missing == set()


def test_flags_states_and_users_are_the_headers(defined: dict[str, int]) -> None:
    ours = {name: value for name, value in vars(flags).items() if name.startswith(("CKF_", "CKS_", "CKU_"))}
    assert len(ours) > 15
    not_in_p11_kit = {name for name in ours if name.startswith("CKF_MESSAGE_")}
    assert {name: defined[name] for name in ours.keys() - not_in_p11_kit} == {
        name: ours[name] for name in ours.keys() - not_in_p11_kit
    }


def test_a_return_value_tells_its_name() -> None:
    assert CKR(0x101).name == "USER_NOT_LOGGED_IN"
    with pytest.raises(ValueError, match=r"0x999|2457"):
        CKR(0x999)
