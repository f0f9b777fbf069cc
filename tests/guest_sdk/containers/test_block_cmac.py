"""CMAC by single blocks is CMAC: another implementation, and the vectors of RFC 4493, agree."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.block_cmac import cmac_by_blocks

RFC_KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
RFC_MESSAGE = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)


def block_of(key: bytes, data: bytes) -> bytes:
    encryptor = Cipher(AES(key), ECB()).encryptor()  # noqa: S305 -- one block
    return encryptor.update(data) + encryptor.finalize()


@given(st.sampled_from([16, 24, 32]), st.binary(min_size=32, max_size=32), st.binary(max_size=100))
def test_it_is_cmac(length: int, key: bytes, message: bytes) -> None:
    theirs = CMAC(AES(key[:length]))
    theirs.update(message)
    assert cmac_by_blocks(message, lambda block: block_of(key[:length], block)) == theirs.finalize()


@pytest.mark.parametrize(
    ("length", "mac"),
    [
        (0, "bb1d6929e95937287fa37d129b756746"),
        (16, "070a16b46b4d4144f79bdd9dd04a287c"),
        (40, "dfa66747de9ae63030ca32611497c827"),
        (64, "51f0bebf7e3b9d92fc49741779363cfe"),
    ],
)
def test_the_vectors_of_rfc_4493(length: int, mac: str) -> None:
    made = cmac_by_blocks(RFC_MESSAGE[:length], lambda block: block_of(RFC_KEY, block))
    assert made.hex() == mac


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_what_answers_with_no_block_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        cmac_by_blocks(b"x", lambda _: bytes(length))
