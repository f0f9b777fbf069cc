"""Which mechanisms are usual for a call, so that an example that is told reads like a request that somebody makes.

Decides nothing: what is proved is the same whatever stands here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Final

from keyvisor_policy.pkcs11.names import MECHANISMS

_DATA: Final = ("AES_GCM", "AES_CBC_PAD", "RSA_PKCS_OAEP", "AES_CTR")
_SIGNATURE: Final = ("ECDSA_SHA256", "SHA256_RSA_PKCS_PSS", "SHA256_HMAC", "EDDSA")
_WRAPPING: Final = ("AES_KEY_WRAP", "RSA_PKCS_OAEP")
_FIRST: Final[Mapping[str, tuple[str, ...]]] = {
    "C_EncryptInit": _DATA,
    "C_DecryptInit": _DATA,
    "C_DigestInit": ("SHA256", "SHA384", "SHA512"),
    "C_SignInit": _SIGNATURE,
    "C_SignRecoverInit": _SIGNATURE,
    "C_VerifyInit": _SIGNATURE,
    "C_VerifyRecoverInit": _SIGNATURE,
    "C_GenerateKey": ("AES_KEY_GEN", "GENERIC_SECRET_KEY_GEN"),
    "C_GenerateKeyPair": ("RSA_PKCS_KEY_PAIR_GEN", "EC_KEY_PAIR_GEN", "EC_EDWARDS_KEY_PAIR_GEN"),
    "C_WrapKey": _WRAPPING,
    "C_UnwrapKey": _WRAPPING,
    "C_DeriveKey": ("ECDH1_DERIVE",),
}
"""Calls with a mechanism -> those that come to mind first."""

_USUAL: Final[Mapping[str, re.Pattern[str]]] = {
    "C_GenerateKey": re.compile("_KEY_GEN$"),
    "C_GenerateKeyPair": re.compile("_KEY_PAIR_GEN$"),
    "C_DigestInit": re.compile("^CKM_(MD|SHA|RIPEMD)[0-9_]*$"),
    "C_SignInit": re.compile("MAC|DSA|^CKM_(MD|SHA|RSA|RIPEMD).*(RSA|PKCS|PSS|X_509)"),
    "C_DeriveKey": re.compile("DERIV"),
    "C_WrapKey": re.compile("WRAP"),
    "C_EncryptInit": re.compile("_(ECB|CBC|CTR|GCM|CCM|OFB|CFB|PAD|OAEP)|^CKM_RC4$"),
}
"""Calls and the names of mechanisms that are made for them. Only for which example comes first."""

_NAMES: Final[Mapping[int, str]] = {number: name for name, number in reversed(MECHANISMS.items())}


def others(call: str) -> Iterator[int]:
    """Mechanisms for such a call, the usual ones first. It does not end: there is always one more that nobody names."""
    first = [MECHANISMS[f"CKM_{name}"] for name in _FIRST[call]]
    rest = (number for number in MECHANISMS.values() if number not in first)
    return itertools.chain(first, rest, itertools.count(MECHANISMS["CKM_VENDOR_DEFINED"]))


def is_unusual(asked: tuple[str, int | None]) -> bool:
    """Whether the call would hardly be made with that mechanism."""
    call, mechanism = asked
    usual = _USUAL.get(call)
    name = "" if mechanism is None else _NAMES.get(mechanism, "")
    return mechanism is not None and (usual is None or not usual.search(name))
