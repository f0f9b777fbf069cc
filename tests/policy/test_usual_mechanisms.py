"""Examples begin with what is usual, and never run out."""

from __future__ import annotations

from itertools import islice

from keyvisor_policy.pkcs11.calls import FORMS, WITH_MECHANISM
from keyvisor_policy.pkcs11.names import MECHANISMS
from keyvisor_policy.usual_mechanisms import is_unusual, others


def test_there_is_always_one_more() -> None:
    for call in WITH_MECHANISM & FORMS.keys():
        found = list(islice(others(call), 2 * len(MECHANISMS)))
        assert set(MECHANISMS.values()) < set(found)


def test_what_nobody_would_ask_comes_later() -> None:
    assert not is_unusual(("C_GenerateKeyPair", MECHANISMS["CKM_EC_KEY_PAIR_GEN"]))
    assert is_unusual(("C_GenerateKey", MECHANISMS["CKM_EC_KEY_PAIR_GEN"]))
    assert is_unusual(("C_DigestInit", MECHANISMS["CKM_SHA256_HMAC"]))
    assert not is_unusual(("C_GenerateRandom", None))
