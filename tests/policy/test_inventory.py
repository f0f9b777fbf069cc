"""Lists of HSMs from files, in each of the forms that are taken."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.wire.messages import Hsm as HsmMessage
from keyvisor_guest.wire.messages import HsmList
from keyvisor_policy import DocumentError, Holding, Hsm, SecretId, parse_inventory

MKVP = "db3c3b3c3f097dd55ec7eb0e7fdbcb93"
AS_IN_CASES = f"[{{apqn: 03.0011, mode: ep11, generation: CEX8, mkvp: 0x{MKVP}, serial: 93AADFK719460083}}]"


def complaints(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        parse_inventory(text, "h.yaml")
    return [str(finding) for finding in caught.value.findings]


def test_a_list_as_in_a_policys_cases() -> None:
    inventory = parse_inventory(AS_IN_CASES)
    assert inventory.hsms == (Hsm("03.0011", "ep11", 8, "93AADFK719460083", bytes.fromhex(MKVP)),)
    assert inventory.current == {}
    assert parse_inventory(f"hsms: {AS_IN_CASES}") == inventory


@pytest.mark.parametrize("indent", [None, 2])
def test_what_the_guests_door_answers(indent: int | None) -> None:
    rest: dict[str, Any] = {"firmware": "8.0", "api": 4, "compliance": ["fips2021"], "online": True}
    there = [
        HsmMessage(
            apqn="03.0011",
            state="associated",
            mode="ep11",
            generation="CEX8",
            serial="S" * 16,
            mkvp=MKVP,
            secret_id="12" * 32,
            **rest,
        ),
        HsmMessage(
            apqn="04.0011", state="bound", mode="accel", generation="CEX7", serial="", mkvp=None, **rest
        ),
        HsmMessage(
            apqn="05.0011", state="failed", mode="ep11", generation="CEX8", serial="", mkvp=MKVP, **rest
        ),
        HsmMessage(
            apqn="06.0011", state="unbound", mode="cca", generation="CEX6", serial="", mkvp=None, **rest
        ),
    ]
    inventory = parse_inventory(HsmList(hsms=there).model_dump_json(indent=indent))
    assert inventory.current == {
        "03.0011": Holding(SecretId(b"\x12" * 32)),
        "04.0011": Holding(),
        "05.0011": Holding(stuck=True),
    }
    assert inventory.hsms[0] == Hsm(
        "03.0011", "ep11", 8, "S" * 16, bytes.fromhex(MKVP), (8, 0), 4, frozenset({"fips2021"})
    )
    bare = json.dumps([message.model_dump() for message in there], indent=indent)
    assert parse_inventory(bare) == inventory


WRONG = [
    ("[{apqn: 03.0011, mode: ep11}]", ["h.yaml:1:2: the key `generation` is missing"]),
    (
        "[{apqn: 3.11, mode: cca, generation: CEX8}]",
        ["h.yaml:1:9: apqn: expected card.domain in hex, as in `03.0011`, found `3.11`"],
    ),
    (
        "[{apqn: 03.0011, mode: cc, generation: CEX8}]",
        ["h.yaml:1:24: mode: expected `ep11`, `accel` or `cca`, found `cc`; did you mean `cca`?"],
    ),
    (
        "[{apqn: 03.0011, mode: cca, generation: CEX8, sate: bound}]",
        ["h.yaml:1:47: unknown key `sate`; did you mean `state`?"],
    ),
    (
        "[{apqn: 03.0011, mode: ep11, generation: CEX8, state: associated}]",
        ["h.yaml:1:2: an associated HSM needs its `secret_id`"],
    ),
    ("{hsms: [4]}", ["h.yaml:1:9: hsms: expected a mapping, found `4`"]),
    ("text", ["h.yaml:1:1: expected a list, found `text`"]),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_each_error_is_said_at_its_place(text: str, said: list[str]) -> None:
    assert complaints(text) == said


@given(st.binary(max_size=60))
def test_any_bytes_are_an_inventory_or_refused(data: bytes) -> None:
    with contextlib.suppress(DocumentError):
        parse_inventory(data)
