"""The table of known causes: every test that does not do the same on both sides, and why.

A difference that is not in it fails `make conformance`, and so does a row whose difference is gone.
"""

from __future__ import annotations

import re
from typing import Final

from conformance.outcomes import Cause, Kind, Result
from conformance.suites import P11TOOL, PKCS11_TOOL, PKCS11_TOOL_TEST, PYTHON_PKCS11

_PASSED, _FAILED = Result.PASSED, Result.FAILED


def _lines(*patterns: str) -> re.Pattern[str]:
    """Whole lines that match one of the patterns."""
    return re.compile("|".join(f"^(?:{pattern})$" for pattern in patterns), re.MULTILINE)


_NO_RANDOM: Final = _lines(r"\s*ERR: C_GenerateRandom\(buf1,0\) .*", r"  seems to be OK", r"(?:1|No) errors")

CAUSES: Final = (
    Cause(
        PYTHON_PKCS11,
        ("tests/test_slots_and_tokens.py::SlotsAndTokensTests::test_get_slots",),
        _PASSED,
        _FAILED,
        Kind.SOFTHSM,
        "One of the tests that are for SoftHSM only: it wants CKF_TOKEN_PRESENT as the slot's only flag. An HSM can be "
        "bound and unbound while applications run, so its slot says CKF_REMOVABLE_DEVICE too, without which the "
        "standard wants a token in the slot at all times.",
        says=("", "REMOVABLE_DEVICE"),
    ),
    Cause(
        PKCS11_TOOL,
        ("slots", "slots with tokens"),
        _PASSED,
        _PASSED,
        Kind.IDENTITY,
        "The slots are HSMs, their tokens say which: APQN, generation, mode, the card's serial number and firmware. "
        "The second one is a spare that is bound; SoftHSM's second one is not initialised.",
        says=("SoftHSM project", "keyvisor HSM 03.0011"),
        part=_lines(
            r"Slot 1 .*(?:\n  .*)*",
            r"Slot 0 .*",
            r"  token (?:manufacturer|model|flags) .*",
            r"  (?:hardware version|firmware version|serial num) .*",
        ),
    ),
    Cause(
        PKCS11_TOOL,
        ("information",),
        _PASSED,
        _PASSED,
        Kind.IDENTITY,
        "The broker answers C_GetInfo itself, with its own name and the guest's.",
        says=("PKCS#11 Kit", "keyvisor"),
        part=_lines(r"(?:Manufacturer|Library) .*"),
    ),
    Cause(
        PKCS11_TOOL,
        ("objects", "objects in the end"),
        _PASSED,
        _PASSED,
        Kind.MENDED,
        "When C_GenerateKey fails, as it does at `DES3 key`, SoftHSM leaves behind what it had made so far: an object "
        "that says CKA_TOKEN false and is on disk all the same. The broker shows an object of a session to that "
        "session's connection only, and so never shows this one.",
        says=("Secret Key Object; DES3\n  label:      \n", "Secret Key Object; Generic"),
        part=_lines(r"Secret Key Object; DES3(?:\n  .*)*", r"warning: .*"),
    ),
    Cause(
        PKCS11_TOOL_TEST,
        ("--test",),
        _FAILED,
        _FAILED,
        Kind.MENDED,
        "No random bytes are asked for: `p11-kit server` makes a NULL pointer of that, which SoftHSM refuses; the broker "
        "answers with none. Both then end at an OAEP label, which SoftHSM does not take.",
        says=("C_GenerateRandom(buf1,0) failed: CKR_ARGUMENTS_BAD", "seems to be OK"),
        part=_NO_RANDOM,
    ),
    Cause(
        PKCS11_TOOL_TEST,
        ("--test without a login",),
        _PASSED,
        _PASSED,
        Kind.MENDED,
        "As above; one error is counted on the plain side.",
        says=("C_GenerateRandom(buf1,0) failed: CKR_ARGUMENTS_BAD", "No errors"),
        part=_NO_RANDOM,
    ),
    Cause(
        P11TOOL,
        ("--list-tokens", "--list-token-urls"),
        _PASSED,
        _PASSED,
        Kind.IDENTITY,
        "The tokens say which HSMs they are, and the spare HSM's token is there too.",
        says=("token=03.0011", "token=05.0011"),
        part=_lines(r"Token 1:(?:\n.*)*", r"\t(?:Manufacturer|Model|Serial): .*", r"pkcs11:token=05\.0011"),
    ),
)
