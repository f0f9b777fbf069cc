"""The policy package's tables of PKCS#11 against those of the HSM's and the broker's, which it may not import."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import pytest

from keyvisor_firmware.broker.attributes import VALUE_CLASSES, ValueClass
from keyvisor_firmware.broker.calls import BY_NAME, CALLS, Access, Role
from keyvisor_firmware.broker.control_points import _HALVES, _MADE_BY, CODES, HANDLE_CODES
from keyvisor_hsm.cryptoki import CKA, CKK, CKM, CKO, CKR
from keyvisor_policy import questions
from keyvisor_policy.pkcs11.calls import (
    DECIDED,
    DECIDED_AT,
    FORMS,
    ON_ACCELERATORS,
    ON_BOUND,
    WITH_KEY,
    WITH_MECHANISM,
    WITH_TEMPLATE,
    named,
)
from keyvisor_policy.pkcs11.curves import CURVES
from keyvisor_policy.pkcs11.implied import CLASSES_MADE, KEY_TYPES_MADE
from keyvisor_policy.pkcs11.kinds import EC_PARAMS, KEY_MATERIAL, NAMED, NOT_FLAT, NUMBERS, TRUTH_VALUES
from keyvisor_policy.pkcs11.names import ATTRIBUTES, KEY_TYPES, MECHANISMS, OBJECT_CLASSES

# What a call with a key, a mechanism or a template may be without being decided: it tells what there is, and does nothing.
UNDECIDED = {"C_FindObjectsInit", "C_GetObjectSize"}


@pytest.mark.parametrize(
    ("table", "numbers"),
    [(MECHANISMS, CKM), (ATTRIBUTES, CKA), (KEY_TYPES, CKK), (OBJECT_CLASSES, CKO)],
    ids=["CKM", "CKA", "CKK", "CKO"],
)
def test_every_name_of_the_standard_is_there_with_its_number(
    table: Mapping[str, int], numbers: type[enum.IntEnum]
) -> None:
    assert table == {
        f"{numbers.__name__}_{name}": int(number) for name, number in numbers.__members__.items()
    }


def of_class(wanted: ValueClass) -> set[int]:
    return {int(type_) for type_, its in VALUE_CLASSES.items() if its is wanted}


def test_kinds_are_what_values_are_on_the_wire() -> None:
    assert of_class(ValueClass.BYTE) == TRUTH_VALUES
    assert of_class(ValueClass.ULONG) == NUMBERS | set(NAMED)
    assert not NUMBERS & set(NAMED)
    structured = of_class(ValueClass.DATE) | of_class(ValueClass.MECHANISMS) | of_class(ValueClass.ATTRIBUTES)
    assert structured == NOT_FLAT
    assert EC_PARAMS == CKA.EC_PARAMS


def test_no_condition_looks_at_a_private_part_of_a_key() -> None:
    assert {CKA(number).name for number in KEY_MATERIAL} == {
        "VALUE",
        "PRIVATE_EXPONENT",
        "PRIME_1",
        "PRIME_2",
        "EXPONENT_1",
        "EXPONENT_2",
        "COEFFICIENT",
    }


def test_every_curve_has_its_own_encoding() -> None:
    encodings = [encoding for those in CURVES.values() for encoding in those]
    assert len(set(encodings)) == len(encodings)
    for encoding in encodings:
        assert encoding[0] in (0x06, 0x13)  # an object identifier, or a PrintableString
        assert encoding[1] == len(encoding) - 2


def test_every_call_that_is_named_is_one_of_the_broker() -> None:
    assert set(BY_NAME) >= DECIDED | set(DECIDED_AT)


def test_every_form_asks_the_same_with_the_same_kinds_of_arguments() -> None:
    judged = {Role.MECHANISM, Role.TEMPLATE, *HANDLE_CODES}
    for call, forms in FORMS.items():
        for form in forms:
            roles = [[role for role in BY_NAME[name].roles if role in judged] for name in (call, form)]
            assert roles[0] == roles[1], form


@pytest.mark.parametrize(
    "name",
    [
        call.name
        for call in CALLS
        if {Role.MECHANISM, Role.TEMPLATE, *HANDLE_CODES} & set(call.roles) and call.name not in UNDECIDED
    ],
)
def test_what_has_a_mechanism_a_template_or_a_key_can_be_decided(name: str) -> None:
    assert name in DECIDED


def test_what_comes_after_a_decision_leads_to_a_call_that_is_decided() -> None:
    assert set(DECIDED_AT.values()) <= set(FORMS)
    assert not set(DECIDED_AT) & set(FORMS)


def test_what_uses_an_operation_comes_after_a_decision() -> None:
    begun = ("Encrypt", "Decrypt", "Digest", "Sign", "Verify")
    using = {
        call.name
        for call in CALLS
        if call.name[2:].startswith((*begun, *(f"Message{one}" for one in begun)))
        and not call.name.endswith("Init")
        and call.name not in FORMS
    }
    # Two operations at once: each of them was begun, and decided, by itself.
    two_at_once = {
        "C_DigestEncryptUpdate",
        "C_DecryptDigestUpdate",
        "C_SignEncryptUpdate",
        "C_DecryptVerifyUpdate",
    }
    assert using - two_at_once <= set(DECIDED_AT)


def having(*roles: Role) -> set[str]:
    return {call for call in FORMS if set(roles) & set(BY_NAME[call].roles)}


def test_what_a_call_is_judged_by_is_what_it_has() -> None:
    assert having(Role.MECHANISM) == WITH_MECHANISM
    assert having(Role.TEMPLATE) | {"C_WrapKey"} == WITH_TEMPLATE  # of which the key that goes out is judged
    assert having(*HANDLE_CODES) == WITH_KEY


def test_what_an_hsm_serves_that_keeps_no_keys_is_what_the_gate_lets_through() -> None:
    open_to_bound = {call.name for call in CALLS if call.access is not Access.SENSITIVE}
    accelerated = {call.name for call in CALLS if call.accelerator} | open_to_bound
    assert {call for call in DECIDED if named(call) in ON_ACCELERATORS} == DECIDED & accelerated
    assert {call for call in DECIDED if named(call) in ON_BOUND} == DECIDED & open_to_bound


def test_a_form_goes_by_the_name_of_its_call() -> None:
    assert {form: named(form) for forms in FORMS.values() for form in forms} == {
        form: call for call, forms in FORMS.items() for form in forms
    }
    assert named("C_SignInit") == "C_SignInit"


def test_tools_take_for_implied_what_the_gate_takes_for_implied() -> None:
    assert {int(mechanism): int(made) for mechanism, made in _MADE_BY.items()} == KEY_TYPES_MADE
    assert CLASSES_MADE["C_GenerateKeyPair"] == tuple(map(int, _HALVES))
    assert CLASSES_MADE["C_GenerateKey"] == (int(CKO.SECRET_KEY),)


def test_tools_say_the_codes_that_the_gate_answers() -> None:
    assert {kind: CKR[code.removeprefix("CKR_")] for kind, code in questions.CODES.items()} == CODES
