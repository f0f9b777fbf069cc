"""What is taken out before the comparison: all that is random, and nothing that tells the sides apart."""

from __future__ import annotations

import pytest
from conformance.masks import masked


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("  serial:     06A3CC45E1DFD549", "  serial:     16A3CC45E1DFD540"),
        ("ID: 14:60:e1:3d:81:8f:fb:3a:11", "ID: 15:60:e1:3d:81:8f:fb:3a:12"),
        ("id=%14%60%E1%3D%81%8F%FB%3A;object=s", "id=%15%60%E1%3D%81%8F%FB%3B;object=s"),
        ("Data object 3\n  label: 'd'", "Data object 2\n  label: 'd'"),
        ("Object 1:\n\tType: x", "Object 4:\n\tType: x"),
        (
            "-----BEGIN PUBLIC KEY-----\nMIIB\nAQAB\n-----END PUBLIC KEY-----",
            "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----",
        ),
        ("pkcs11:token=t;object=o?pin-value=1234", "pkcs11:token=t;object=o"),
        (
            "pkcs11:model=a;manufacturer=b%20c;serial=d;token=t;id=%01",
            "pkcs11:model=e;manufacturer=f;serial=g;token=t;id=%01",
        ),
        ("  AES-ECB, encrypt, decrypt, other flags=0x2", "  AES-ECB, encrypt, decrypt"),
    ],
)
def test_is_the_same_from_run_to_run(one: str, other: str) -> None:
    assert masked(one) == masked(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("rv = CKR_PIN_INCORRECT (0xa0)", "rv = CKR_PIN_LOCKED (0xa4)"),
        ("  ID:         01", "  ID:         02"),
        ("  label:      aes", "  label:      des"),
        ("  Access:     local", "  Access:     extractable, local"),
        ("Public Key Object; RSA 2048 bits", "Public Key Object; RSA 1024 bits"),
        ("  AES-ECB, keySize={16,32}, encrypt, decrypt", "  AES-ECB, keySize={16,24}, encrypt, decrypt"),
        ("  AES-ECB, encrypt, decrypt", "  AES-ECB, encrypt"),
        ("token flags: login required, rng, other flags=0x20", "token flags: login required, rng"),
        ("pkcs11:token=a;id=%01", "pkcs11:token=b;id=%01"),
    ],
)
def test_stays_different(one: str, other: str) -> None:
    assert masked(one) != masked(other)
