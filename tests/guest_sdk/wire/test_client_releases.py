"""Which release of the stock client carries what (pkcs11-rpc, 7.1, 7.2 and 9)."""

from __future__ import annotations

import pytest

from keyvisor_guest.wire.client_releases import RELEASES, carried_by, names, since

AES_ECB, AES_CBC, AES_GCM, AES_KEY_WRAP, EDDSA = 0x1081, 0x1082, 0x1087, 0x2109, 0x1057


@pytest.mark.parametrize(
    ("mechanism", "first"),
    [
        (AES_ECB, "0.24"),
        (0xD, "0.24"),  # RSA_PKCS_PSS
        (0x43, "0.25.0"),  # SHA256_RSA_PKCS_PSS
        (0x9, "0.24"),  # RSA_PKCS_OAEP
        (AES_CBC, "0.25.0"),
        (AES_GCM, "0.25.0"),
        (0x1050, "0.25.0"),  # ECDH1_DERIVE
        (0x1041, "0.24"),  # ECDSA
        (0x1044, "0.25.0"),  # ECDSA_SHA256
        (0x8001001C, "0.25.0"),  # IBM_ED25519_SHA512
        (AES_KEY_WRAP, None),
        (EDDSA, None),
        (0x13, None),  # DSA_SHA224
        (0x80001234, None),
    ],
)
def test_the_first_release_that_carries_a_mechanism(mechanism: int, first: str | None) -> None:
    assert since(mechanism) == first
    assert carried_by(mechanism) == frozenset(() if first is None else RELEASES[RELEASES.index(first) :])


def test_as_many_as_the_reference_counts() -> None:
    """89 without parameter and two with in 0.24; 35 and 38 more in 0.25.0, and a wrapping of IBM's."""
    counts = [sum(1 for number in names() if release in carried_by(number)) for release in RELEASES]
    assert counts == [91, 91 + 35 + 37 + 1, 91 + 35 + 37 + 1]


@pytest.mark.parametrize("release", RELEASES)
def test_no_release_loses_what_an_older_one_had(release: str) -> None:
    older = RELEASES[: RELEASES.index(release)]
    for number in names():
        assert not any(one in carried_by(number) for one in older) or release in carried_by(number)
