"""One HSM against one rule: each field alone, all, none, and near misses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_policy import Hsm, Interval, Pattern
from keyvisor_policy.matching import mismatches, usable

MakeHsm = Callable[..., Hsm]

MKVP = bytes.fromhex("db3c3b3c3f097dd55ec7eb0e7fdbcb93")
OTHER = bytes.fromhex("db3c3b3c3f097dd55ec7eb0e7fdbcb92")

FIELDS: dict[str, Any] = {
    "mkvp": MKVP,
    "serial": "93AADFK719460083",
    "generation": Interval(8, None),
    "firmware": Interval((8, 0), (8, 4)),
    "api": Interval(4, 4),
    "compliance": frozenset({"fips2021"}),
}

# (field, the HSM's value, what is said)
NEAR_MISSES: list[tuple[str, Any, str]] = [
    ("mkvp", OTHER, f"mkvp differs: `{MKVP.hex()}` wanted, `{OTHER.hex()}` found"),
    ("serial", "93AADFK719460084", "serial differs: `93AADFK719460083` wanted, `93AADFK719460084` found"),
    ("serial", "93aADFK719460083", "serial differs: `93AADFK719460083` wanted, `93aADFK719460083` found"),
    ("serial", "", "serial differs: `93AADFK719460083` wanted, `none` found"),
    ("generation", 7, "generation differs: `>=CEX8` wanted, `CEX7` found"),
    ("firmware", (7, 99), "firmware differs: `8.0..8.4` wanted, `7.99` found"),
    ("firmware", (8, 5), "firmware differs: `8.0..8.4` wanted, `8.5` found"),
    ("api", 3, "api differs: `==4` wanted, `3` found"),
    ("api", 5, "api differs: `==4` wanted, `5` found"),
    ("compliance", frozenset({"bsi2021"}), "compliance lacks `fips2021`: `bsi2021` found"),
    ("compliance", frozenset(), "compliance lacks `fips2021`: none found"),
]


@pytest.mark.parametrize("field", FIELDS)
def test_part2_T2_each_field_alone_matches(field: str, hsm: MakeHsm) -> None:
    assert mismatches(hsm(), Pattern("ep11", **{field: FIELDS[field]})) == ()


def test_part2_T2_all_fields_and_no_fields_match(hsm: MakeHsm) -> None:
    assert mismatches(hsm(), Pattern("ep11", **FIELDS)) == ()
    assert mismatches(hsm(), Pattern("ep11")) == ()


@pytest.mark.parametrize(("field", "value", "said"), NEAR_MISSES)
def test_part2_T3_a_near_miss_is_a_miss_and_names_its_field(
    field: str, value: Any, said: str, hsm: MakeHsm
) -> None:
    for pattern in (Pattern("ep11", **FIELDS), Pattern("ep11", **{field: FIELDS[field]})):
        (mismatch,) = mismatches(hsm(**{field: value}), pattern)
        assert (mismatch.field, str(mismatch)) == (field, said)
    rest = {name: wanted for name, wanted in FIELDS.items() if name != field}
    assert mismatches(hsm(**{field: value}), Pattern("ep11", **rest)) == ()


@pytest.mark.parametrize("bit", range(128))
def test_part2_T3_every_bit_of_the_mkvp_counts(bit: int, hsm: MakeHsm) -> None:
    flipped = (int.from_bytes(MKVP, "big") ^ 1 << bit).to_bytes(16, "big")
    assert not usable(hsm(mkvp=flipped), Pattern("ep11", mkvp=MKVP))


@pytest.mark.parametrize(
    ("wanted", "found"), [("ep11", "accel"), ("ep11", "cca"), ("accel", "ep11"), ("accel", "cca")]
)
def test_part2_T3_the_mode_always_counts(wanted: Any, found: Any, hsm: MakeHsm) -> None:
    (mismatch,) = mismatches(hsm(mode=found), Pattern(wanted))
    assert str(mismatch) == f"mode differs: `{wanted}` wanted, `{found}` found"


def test_an_hsm_that_is_offline_or_has_no_master_key_is_not_usable(hsm: MakeHsm) -> None:
    assert [str(found) for found in mismatches(hsm(online=False), Pattern("ep11"))] == ["the HSM is offline"]
    no_key = [str(found) for found in mismatches(hsm(mkvp=None), Pattern("ep11", mkvp=MKVP))]
    assert no_key == ["the HSM has no valid current master key"]
    assert mismatches(hsm(mode="accel", mkvp=None), Pattern("accel")) == ()


def test_every_field_that_differs_is_named(hsm: MakeHsm) -> None:
    other = hsm(
        mode="accel", mkvp=None, serial="x", generation=4, firmware=(1, 0), api=0, compliance=frozenset()
    )
    fields = [mismatch.field for mismatch in mismatches(other, Pattern("ep11", **FIELDS))]
    assert fields == ["mode", "serial", "generation", "firmware", "api", "compliance"]


def test_what_a_lying_hsm_says_reaches_a_terminal_only_escaped(hsm: MakeHsm) -> None:
    (mismatch,) = mismatches(hsm(serial="\x1b[2J`"), Pattern("ep11", serial="93AADFK719460083"))
    assert str(mismatch).endswith("`\\x1b[2J\\x60` found")


bounds = st.one_of(st.none(), st.integers(3, 9))
patterns = st.builds(
    Pattern,
    mode=st.sampled_from(["ep11", "accel"]),
    mkvp=st.sampled_from([None, MKVP, OTHER]),
    serial=st.sampled_from([None, "A" * 16, "a" * 16]),
    generation=st.one_of(st.none(), st.builds(Interval, bounds, bounds)),
    firmware=st.one_of(st.none(), st.just(Interval((7, 3), None))),
    api=st.one_of(st.none(), st.builds(Interval, bounds, bounds)),
    compliance=st.frozensets(st.sampled_from(["fips", "bsi"])),
)
hsms = st.builds(
    Hsm,
    apqn=st.just("00.0001"),
    mode=st.sampled_from(["ep11", "accel", "cca"]),
    generation=st.integers(4, 8),
    serial=st.sampled_from(["", "A" * 16, "a" * 16]),
    mkvp=st.sampled_from([None, MKVP, OTHER]),
    firmware=st.sampled_from([(7, 2), (7, 3), (8, 0)]),
    api=st.integers(3, 9),
    compliance=st.frozensets(st.sampled_from(["fips", "bsi"])),
    online=st.booleans(),
)


@given(hsms, patterns)
def test_an_hsm_is_usable_exactly_where_nothing_stands_against_it(found: Hsm, wanted: Pattern) -> None:
    assert usable(found, wanted) == (mismatches(found, wanted) == ())
