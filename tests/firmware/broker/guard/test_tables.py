"""The guard's tables, held against the standard's own lists."""

from __future__ import annotations

import itertools
import re

import pytest

from keyvisor_firmware.broker.calls import BY_NAME, CALLS, Role
from keyvisor_firmware.broker.errors import Refused
from keyvisor_firmware.broker.guard import roles
from keyvisor_firmware.broker.guard.admitting import RULES
from keyvisor_firmware.broker.guard.facts import Facts
from keyvisor_firmware.broker.guard.mechanisms import (
    DERIVING,
    RAW_SIGNATURES,
    WRAPPING,
    Deriving,
    Wrapping,
    deriving,
    wrapping,
)
from keyvisor_firmware.broker.guard.roles import ALL_POWERS, POWERS, STEPS, Side, lost_powers, role_of
from keyvisor_hsm.cryptoki import CKA, CKM

# Calls with a key that move no key and no data through it, and why the guard lets them be.
HARMLESS = {
    "C_VerifyInit", "C_VerifyRecoverInit", "C_MessageVerifyInit",  # work with what is public
    "C_DigestKey",  # one-way
    "C_DestroyObject", "C_GetObjectSize", "C_GetAttributeValue",  # the module keeps what is sensitive
}  # fmt: skip


def test_every_call_with_a_key_has_a_rule_or_a_reason() -> None:
    keys = {Role.KEY, Role.OBJECT, Role.WRAPPING_KEY, Role.UNWRAPPING_KEY, Role.OPTIONAL_KEY}
    makes = {
        call.name for call in CALLS if Role.TEMPLATE in call.roles and not call.name.startswith("C_Find")
    }
    uses = {call.name for call in CALLS if keys & set(call.roles)}
    assert makes | uses == RULES.keys() | HARMLESS
    assert not HARMLESS & RULES.keys()
    assert RULES.keys() <= BY_NAME.keys()


def test_every_mechanism_that_wraps_is_classified() -> None:
    named = {
        type_ for type_ in CKM if re.search(r"_(ECB|CBC|CBC_PAD|CTR|CTS|GCM|CCM|OAEP)$|WRAP", type_.name)
    }
    rare = {type_ for type_ in named if re.match(r"PBE_|SKIPJACK_|BATON_|JUNIPER_|CAST5_", type_.name)}
    assert named - rare <= WRAPPING.keys()
    assert wrapping(0x8FFFFFFF) is Wrapping.LEAKY


def test_every_mechanism_that_derives_is_classified() -> None:
    named = re.compile(
        r"DERIVE$|DERIVATION$|DERIVE_DH|ENCRYPT_DATA$|^CONCATENATE|^XOR_|^EXTRACT_|(TLS|TLS12)_KDF$"
    )
    assert {type_ for type_ in CKM if named.search(type_.name)} <= DERIVING.keys()
    assert deriving(0x8FFFFFFF) is Deriving.REVEALING


def test_raw_signatures_are_the_decryptions_and_the_chained_encryptions() -> None:
    assert {CKM.RSA_X_509, CKM.AES_MAC, CKM.DES3_MAC_GENERAL} <= RAW_SIGNATURES
    assert not {CKM.RSA_PKCS, CKM.AES_CMAC, CKM.SHA256_HMAC, CKM.AES_GMAC} & RAW_SIGNATURES


def test_the_role_machine_is_total() -> None:
    assert set(STEPS) == set(itertools.product(roles.Role, Side))
    assert set(roles.Step) == set(STEPS.values())


@pytest.mark.parametrize("powers", [c for n in range(5) for c in itertools.combinations(ALL_POWERS, n)])
def test_after_a_use_no_power_of_the_other_side_is_left(powers: tuple[CKA, ...]) -> None:
    facts = Facts(4, 0x1F, frozenset(powers), frozenset(ALL_POWERS) - frozenset(powers))
    for side, other in ((Side.DATA, Side.WRAPPING), (Side.WRAPPING, Side.DATA)):
        try:
            lost = set(lost_powers(facts, side, "03.0011"))
        except Refused as refused:
            assert not set(powers) & set(POWERS[side]), "a key that could was refused"
            assert "another key" in refused.reason or "generate" in refused.reason  # noqa: PT017
            continue
        assert not (set(powers) - lost) & set(POWERS[other])
        assert set(powers) & set(POWERS[side]) == (set(powers) - lost) & set(POWERS[side])


def test_a_key_that_cannot_be_decided_is_refused() -> None:
    facts = Facts(4, 0x1F, frozenset(ALL_POWERS), frozenset((CKA.MODIFIABLE,)))
    assert role_of(facts) is roles.Role.UNDECIDED
    with pytest.raises(Refused, match="one key for each"):
        lost_powers(facts, Side.DATA, "03.0011")
