"""Sealing by the firmware: what is asked of the guest's secret store, and what is made of the answers."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from keyvisor_guest.containers.errors import KeyRefused
from keyvisor_guest.containers.firmware_sealing import open_in_firmware, protected_aes_key, seal_in_firmware
from keyvisor_guest.containers.key_wrapping import MAX_PAYLOAD, Context
from keyvisor_guest.errors import Refused
from keyvisor_guest.wire.secret_kinds import SecretKind

KEY = b"\x17\x71\xc3\x3c" * 8


class Firmware:
    """A protected key whose bytes stay in here."""

    def __init__(self, key: bytes = KEY) -> None:
        self._cipher = AESGCM(key)

    def encrypt(self, data: bytes, *, iv: bytes, mode: str, associated: bytes) -> bytes:
        assert mode == "GCM"
        return self._cipher.encrypt(iv, data, associated)

    def decrypt(self, data: bytes, *, iv: bytes, mode: str, associated: bytes) -> bytes:
        assert mode == "GCM"
        try:
            return self._cipher.decrypt(iv, data, associated)
        except InvalidTag:
            raise Refused("key", 0x07, "not authentic") from None


@dataclass
class Found:
    kind: SecretKind

    def key(self) -> Firmware:
        return Firmware()


class Store:
    def __init__(self, **kinds: SecretKind) -> None:
        self.kinds = kinds

    def missing(self, names: list[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name not in self.kinds)

    def retrieve(self, name: str) -> Found:
        return Found(self.kinds[name])


@given(st.binary(max_size=300), st.sampled_from(Context))
def test_what_is_sealed_opens_for_its_context_only(payload: bytes, context: Context) -> None:
    sealed = seal_in_firmware(Firmware(), payload, context, os.urandom)  # type: ignore[arg-type]
    assert open_in_firmware(Firmware(), sealed, context) == payload  # type: ignore[arg-type]
    for other in set(Context) - {context}:
        with pytest.raises(KeyRefused, match="another key, or changed"):
            open_in_firmware(Firmware(), sealed, other)  # type: ignore[arg-type]
    with pytest.raises(KeyRefused, match="another key, or changed"):
        open_in_firmware(Firmware(bytes(32)), sealed, context)  # type: ignore[arg-type]


@given(st.sampled_from(["iv", "sealed"]), st.integers(0, 10_000), st.integers(1, 255))
def test_one_changed_byte_opens_nothing(name: str, at: int, flip: int) -> None:
    members = json.loads(seal_in_firmware(Firmware(), b"options", Context.LAYER_OPTIONS, os.urandom))  # type: ignore[arg-type]
    part = bytearray(base64.b64decode(members[name]))
    part[at % len(part)] ^= flip
    members[name] = base64.b64encode(part).decode()
    with pytest.raises(KeyRefused):
        open_in_firmware(Firmware(), json.dumps(members).encode(), Context.LAYER_OPTIONS)  # type: ignore[arg-type]


@given(
    st.binary(max_size=100)
    | st.dictionaries(
        st.sampled_from(["version", "method", "iv", "sealed"]),
        st.none() | st.integers() | st.text(max_size=8),
    ).map(lambda members: json.dumps(members).encode())
)
def test_whatever_comes_is_refused_in_an_orderly_way(data: bytes) -> None:
    with pytest.raises(KeyRefused, match="nothing that was sealed"):
        open_in_firmware(Firmware(), data, Context.LAYER_OPTIONS)  # type: ignore[arg-type]


def test_what_the_firmware_refuses_otherwise_is_told_as_it_is() -> None:
    class Gone(Firmware):
        def decrypt(self, data: bytes, **_: object) -> bytes:
            raise Refused("key", 0x02, "a key of an earlier start")

    sealed = seal_in_firmware(Firmware(), b"x", Context.RELEASE, os.urandom)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="earlier start"):
        open_in_firmware(Gone(), sealed, Context.RELEASE)  # type: ignore[arg-type]


def test_only_an_aes_256_key_is_taken() -> None:
    assert protected_aes_key(Store(k=SecretKind.AES_256), "k")  # type: ignore[arg-type]
    with pytest.raises(KeyRefused, match="no secret of the guest has the name `k`"):
        protected_aes_key(Store(), "k")  # type: ignore[arg-type]
    for kind in set(SecretKind) - {SecretKind.AES_256}:
        with pytest.raises(KeyRefused, match="no AES-256 key"):
            protected_aes_key(Store(k=kind), "k")  # type: ignore[arg-type]
    with pytest.raises(KeyRefused, match="at most"):
        seal_in_firmware(Firmware(), bytes(MAX_PAYLOAD + 1), Context.RELEASE, os.urandom)  # type: ignore[arg-type]
