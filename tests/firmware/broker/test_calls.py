"""The table of calls as data: dense, unique, complete against PKCS#11's own list, and true to the protocol."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from keyvisor_firmware.broker.answers import ANSWERS, OWN
from keyvisor_firmware.broker.calls import (
    ANSWERED_BY_THE_CLIENT,
    BY_ID,
    BY_NAME,
    CALLS,
    Access,
    Call,
    Role,
)
from keyvisor_firmware.broker.forward import STEPS, forward
from keyvisor_hsm.cryptoki import FUNCTIONS, FUNCTIONS_3_0

from .encoder import PROTOCOL, split

HEADER = Path("/usr/include/p11-kit-1/p11-kit/pkcs11.h")

# What an argument can be, by how it travels.
_NUMBERS = {Role.SESSION, Role.SLOT, Role.NUMBER, Role.KEY, Role.OBJECT, Role.OPTIONAL_KEY}
_CAN_BE = {
    "u": _NUMBERS | {Role.WRAPPING_KEY, Role.UNWRAPPING_KEY},
    "M": {Role.MECHANISM},
    "aA": {Role.TEMPLATE},
    "fA": {Role.QUERY},
    "ay": {Role.DATA, Role.MESSAGE_PARAMETER},
    "fy": {Role.ROOM},
    "fu": {Role.ULONG_ROOM},
    "y": {Role.BYTE, Role.WANTED},
    "z": {Role.LABEL},
    "s": {Role.LABEL},
}

# patents 2.5, 42: what an HSM that is bound and no more lets through.
_ALLOWED_WHEN_BOUND = (
    "C_Initialize C_Finalize C_GetInfo C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_GetMechanismList"
    " C_GetMechanismInfo C_OpenSession C_CloseSession C_CloseAllSessions C_GetSessionInfo C_Logout C_DigestInit"
    " C_Digest C_DigestUpdate C_DigestFinal C_SeedRandom C_GenerateRandom C_WaitForSlotEvent C_SessionCancel"
)
# architecture, section 5, 3: an accelerator generates, unwraps and keeps nothing, and makes no other copies of keys.
_NEVER_BY_AN_ACCELERATOR = (
    "C_InitToken C_InitPIN C_SetPIN C_GetOperationState C_SetOperationState C_CopyObject C_GenerateKey"
    " C_GenerateKeyPair C_WrapKey C_UnwrapKey C_DeriveKey C_DigestEncryptUpdate C_DecryptDigestUpdate"
    " C_SignEncryptUpdate C_DecryptVerifyUpdate C_InitToken2 C_DeriveKey2"
)


# Calls that p11-kit made up to carry a function of the standard better.
_OF_THE_PROTOCOL = {"C_InitToken2", "C_DeriveKey2"}


def test_ids_are_dense_and_names_unique() -> None:
    assert [call.id for call in CALLS] == list(range(1, 90))
    assert len({call.name for call in CALLS}) == len(CALLS)
    assert {call.id: call for call in CALLS} == BY_ID
    assert {call.name: call for call in CALLS} == BY_NAME


def test_every_row_travels_as_the_protocol_says() -> None:
    assert {call.name: (call.id, call.request, call.reply) for call in CALLS} == PROTOCOL


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_every_argument_has_a_role_that_it_can_have(call: Call) -> None:
    kinds = split(call.request)
    assert len(call.roles) == len(kinds)
    assert all(role in _CAN_BE[kind] for role, kind in zip(call.roles, kinds, strict=True))


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_every_row_says_who_may_call_and_why(call: Call) -> None:
    assert call.reason
    assert call.reason == call.reason.strip().rstrip(".")
    assert isinstance(call.access, Access)
    assert call.access is Access.SENSITIVE or not call.accelerator


def test_what_is_not_sensitive_is_what_was_decided() -> None:
    """Everything else is sensitive, so a row that is added without a thought is."""
    allowed = {call.name for call in CALLS if call.access is not Access.SENSITIVE}
    assert allowed == set(_ALLOWED_WHEN_BOUND.split())


def test_what_an_accelerator_never_serves_is_what_was_decided() -> None:
    never = {call.name for call in CALLS if call.access is Access.SENSITIVE and not call.accelerator}
    assert never == set(_NEVER_BY_AN_ACCELERATOR.split())


def test_only_calls_without_an_hsm_are_open() -> None:
    """An open call is answered whatever became of the HSMs, so it must not name a session."""
    for call in CALLS:
        assert (call.access is Access.OPEN) <= (Role.SESSION not in call.roles)


def test_every_function_of_the_standard_has_a_row_or_never_travels() -> None:
    if not HEADER.exists():
        pytest.skip(f"there is no {HEADER}; package libp11-kit-dev has it")
    declared = set(re.findall(r"_CK_DECLARE_FUNCTION \((C_\w+)", HEADER.read_text(encoding="utf-8")))
    assert len(declared) == 68
    assert declared <= BY_NAME.keys() | ANSWERED_BY_THE_CLIENT
    assert not BY_NAME.keys() & ANSWERED_BY_THE_CLIENT


def test_every_function_of_the_binding_has_a_row_or_never_travels() -> None:
    bound = {name for name, _ in FUNCTIONS + FUNCTIONS_3_0}
    assert bound | _OF_THE_PROTOCOL == BY_NAME.keys() | ANSWERED_BY_THE_CLIENT
    assert not bound & _OF_THE_PROTOCOL


# --- what answers them


def test_every_call_is_answered() -> None:
    assert ANSWERS.keys() == BY_ID.keys()
    assert OWN.keys() <= BY_NAME.keys()


_FORWARDED = [call for call in CALLS if ANSWERS[call.id] is forward]


def test_most_calls_are_forwarded() -> None:
    assert len(_FORWARDED) > 35


@pytest.mark.parametrize("call", _FORWARDED, ids=lambda call: call.name)
def test_what_is_forwarded_has_as_many_arguments_as_the_function(call: Call) -> None:
    """A number too few, and the module would read whatever lies there."""
    assert call.roles[0] is Role.SESSION
    lengths = dict.fromkeys((Role.TEMPLATE, Role.DATA, Role.ROOM, Role.MESSAGE_PARAMETER), 2) | {
        Role.WANTED: 0
    }
    arguments = 1 + sum(lengths.get(role, 1) for role in call.roles[1:])
    made = len(call.reply) if call.reply in ("u", "uu") else 0
    assert arguments + made == dict(FUNCTIONS + FUNCTIONS_3_0)[call.name]
    assert all(role in STEPS for role in call.roles[1:])
    assert call.reply in ("", "u", "uu", "ay")
