"""The inventory: names of HSMs, and what a query answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_hsm.cards import Apqn, Card, Domain, Generation, Inventory, Mode, UnknownHsm

MKVPS = {"red": bytes(range(16)), "blue": bytes(16)}


def card(number: int, mode: Mode, *domains: Domain) -> Card:
    return Card(
        number, Generation.CEX8, mode, "93AADFK719460083", (8, 3), 4, frozenset({"fips2021"}), domains
    )


@pytest.fixture
def inventory() -> Inventory:
    return Inventory(
        (
            card(7, Mode.ACCEL, Domain(0x11, "red")),
            card(3, Mode.EP11, Domain(0x12), Domain(0x11, "red", online=False)),
            card(5, Mode.CCA, Domain(0x11, "blue")),
        )
    )


@given(st.integers(0, 255), st.integers(0, 255))
def test_an_apqn_reads_what_it_writes(number: int, domain: int) -> None:
    apqn = Apqn(number, domain)
    assert Apqn.parse(str(apqn)) == Apqn.parse(str(apqn).upper()) == apqn


def test_an_apqn_is_written_as_the_kernel_does() -> None:
    assert str(Apqn(3, 0x11)) == "03.0011"


@pytest.mark.parametrize(
    "text",
    ["", "3.11", "03.011", "03.00111", "0x03.0011", "03.0111", "03.0011\n", " 03.0011", "03-0011", "٣3.0011"],
)
def test_anything_else_is_no_apqn(text: str) -> None:
    with pytest.raises(ValueError, match=r"APQN|00 to ff"):
        Apqn.parse(text)


@pytest.mark.parametrize(("number", "domain"), [(-1, 0), (256, 0), (0, -1), (0, 256)])
def test_numbers_out_of_range_are_no_apqn(number: int, domain: int) -> None:
    with pytest.raises(ValueError, match="00 to ff"):
        Apqn(number, domain)


def test_the_inventory_is_in_the_order_of_apqns(inventory: Inventory) -> None:
    assert [str(apqn) for apqn in inventory] == ["03.0011", "03.0012", "05.0011", "07.0011"]
    assert Apqn(3, 0x12) in inventory
    assert Apqn(3, 0x13) not in inventory
    assert "03.0011" not in inventory


def test_a_query_answers_what_the_card_and_the_domain_are(inventory: Inventory) -> None:
    data = inventory.query(Apqn(3, 0x11), MKVPS)
    assert (data.generation, data.mode, data.mkvp, data.online) == (
        Generation.CEX8,
        Mode.EP11,
        MKVPS["red"],
        False,
    )
    assert (data.serial, data.firmware, data.api, data.compliance) == (
        "93AADFK719460083",
        (8, 3),
        4,
        frozenset({"fips2021"}),
    )


def test_a_domain_without_master_key_has_no_pattern(inventory: Inventory) -> None:
    assert inventory.query(Apqn(3, 0x12), MKVPS).mkvp is None


def test_an_accelerator_has_no_pattern_whatever_its_domain_says(inventory: Inventory) -> None:
    assert inventory.query(Apqn(7, 0x11), MKVPS).mkvp is None


def test_the_master_keys_are_known_by_name(inventory: Inventory) -> None:
    assert inventory.master_keys() == {"red", "blue"}
    assert inventory.master_key(Apqn(3, 0x11)) == "red"
    assert inventory.master_key(Apqn(3, 0x12)) is None


def test_an_unknown_hsm_is_said_so_with_the_way_out(inventory: Inventory) -> None:
    for ask in (inventory.master_key, lambda apqn: inventory.query(apqn, MKVPS)):
        with pytest.raises(UnknownHsm, match=r"no HSM 09\.0011 .* `keyvisor hsm list`") as unknown:
            ask(Apqn(9, 0x11))
        assert unknown.value.apqn == Apqn(9, 0x11)


def test_generations_are_ordered() -> None:
    assert Generation.CEX7 < Generation.CEX8
