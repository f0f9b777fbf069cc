"""The tables are total: nothing that PKCS#11's headers name is without a class and a reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from keyvisor_firmware.broker.attribute_table import ATTRIBUTES
from keyvisor_firmware.broker.attributes import value_class
from keyvisor_firmware.broker.calls import ANSWERED_BY_THE_CLIENT, BY_NAME
from keyvisor_firmware.broker.mechanism_parameters import NOT_READ, PARAMETERS, WITHOUT_PARAMETER
from keyvisor_firmware.broker.mechanism_table import REFUSED, Carriage, carriage
from keyvisor_guest.wire import client_releases
from keyvisor_hsm.cryptoki import CKA, CKM

HEADER = Path("/usr/include/p11-kit-1/p11-kit/pkcs11.h")


@pytest.fixture(scope="module")
def header() -> str:
    if not HEADER.exists():
        pytest.skip(f"there is no {HEADER}; package libp11-kit-dev has it")
    return HEADER.read_text(encoding="utf-8")


def _names(header: str, prefix: str) -> set[str]:
    found = set(re.findall(rf"^#define {prefix}_(\w+)\s", header, re.MULTILINE))
    assert len(found) > 90
    return found


def test_every_function_of_the_header_has_a_row_and_a_reason(header: str) -> None:
    declared = set(re.findall(r"_CK_DECLARE_FUNCTION \((C_\w+)", header))
    assert declared - ANSWERED_BY_THE_CLIENT <= BY_NAME.keys()
    assert all(BY_NAME[name].reason for name in declared - ANSWERED_BY_THE_CLIENT)


def test_every_mechanism_of_the_header_has_a_class_and_a_refusal_a_reason(header: str) -> None:
    for name in _names(header, "CKM"):
        kind, reason = carriage(CKM[name])
        assert bool(reason) is (kind is Carriage.WITHOUT), name


def test_every_attribute_of_the_header_has_a_class_and_a_reason(header: str) -> None:
    for name in _names(header, "CKA"):
        kind, reason = ATTRIBUTES[CKA[name]]
        assert kind is value_class(CKA[name]), name
        assert reason, name


def test_the_tables_hold_nothing_twice_and_nothing_unknown() -> None:
    assert set(CKM) == WITHOUT_PARAMETER | PARAMETERS.keys() | REFUSED.keys()
    assert not (WITHOUT_PARAMETER | PARAMETERS.keys()) & REFUSED.keys()
    assert ATTRIBUTES.keys() == set(CKA)
    assert REFUSED.keys() >= NOT_READ


def test_what_a_client_carries_is_read_or_refused_with_a_reason() -> None:
    carried = client_releases.names().keys()
    assert carried == WITHOUT_PARAMETER | PARAMETERS.keys() | {CKM.IBM_ATTRIBUTEBOUND_WRAP}
    assert {number: CKM(number).name for number in carried} == {
        number: CKM[name].name for number, name in client_releases.names().items()
    }
