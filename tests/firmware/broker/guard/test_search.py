"""The search finds how to bring a key out of plain SoftHSM, and finds nothing through the broker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from conformance.attacks.token import RefusedByToken, Token
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keyvisor_firmware.broker.hot.loop import HotLoop
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki import CKA, CKM
from keyvisor_hsm.cryptoki.native import Mechanism as NativeMechanism
from keyvisor_hsm.partitions import Partition, PartitionKeys, open_session

from ..encoder import CallFailed, Mechanism
from ..in_process import Application, Bench, store_of
from .search import FLAGS, SIZE, Asked, RefusedCall, Result, State, World, search

DEPTH: Final = int(os.environ.get("KEYVISOR_TEST_SEARCH_DEPTH", "5"))
AES: Final[Asked] = {CKA.CLASS: 4, CKA.KEY_TYPE: 0x1F}
KW, ECB = CKM.AES_KEY_WRAP, CKM.AES_ECB


class Plain:
    """The module itself."""

    def __init__(self, token: Token) -> None:
        self.token = token

    def _do(self, do: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return do(*arguments)
        except RefusedByToken as refused:
            raise RefusedCall(str(refused)) from None

    def generate(self, asked: Asked) -> int:
        return int(self._do(self.token.aes, {**asked, CKA.VALUE_LEN: SIZE}))

    def create(self, asked: Asked) -> int:
        return int(self._do(self.token.create, {**AES, **asked}))

    def copy(self, key: int, asked: Asked) -> int:
        return int(self._do(self.token.copy, key, asked))

    def change(self, key: int, asked: Asked) -> None:
        self._do(self.token.change, key, asked)

    def destroy(self, key: int) -> None:
        self._do(self.token.call, "C_DestroyObject", key)

    def wrap(self, by: int, key: int) -> bytes:
        return bytes(self._do(self.token.wrap, NativeMechanism(KW, None), by, key))

    def unwrap(self, by: int, blob: bytes, asked: Asked) -> int:
        return int(self._do(self.token.unwrap, NativeMechanism(KW, None), by, blob, asked))

    def encrypt(self, key: int, block: bytes) -> bytes:
        return bytes(self._do(self.token.encrypt, NativeMechanism(ECB, None), key, block))

    def decrypt(self, key: int, block: bytes) -> bytes:
        return bytes(self._do(self.token.decrypt, NativeMechanism(ECB, None), key, block))

    def value(self, key: int) -> bytes:
        return bytes(self._do(self.token.read, key))

    def flags(self, key: int) -> tuple[bool, ...]:
        return tuple(self.token.read(key, flag) != b"\0" for flag in FLAGS)


class Brokered:
    """The same module behind the broker's own code: connection, filter, guard, forwarding."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.session = application.session(login=True)

    def _do(self, name: str, *values: Any) -> Any:
        try:
            return self.application.call(name, self.session, *values)
        except CallFailed as failed:
            raise RefusedCall(f"{name} {failed}") from None

    def generate(self, asked: Asked) -> int:
        made = self._do("C_GenerateKey", Mechanism(CKM.AES_KEY_GEN), [*asked.items(), (CKA.VALUE_LEN, SIZE)])
        return int(made)

    def create(self, asked: Asked) -> int:
        return int(self._do("C_CreateObject", list({**AES, **asked}.items())))

    def copy(self, key: int, asked: Asked) -> int:
        return int(self._do("C_CopyObject", key, list(asked.items())))

    def change(self, key: int, asked: Asked) -> None:
        self._do("C_SetAttributeValue", key, list(asked.items()))

    def destroy(self, key: int) -> None:
        self._do("C_DestroyObject", key)

    def wrap(self, by: int, key: int) -> bytes:
        return bytes(self._do("C_WrapKey", Mechanism(KW), by, key, 256))

    def unwrap(self, by: int, blob: bytes, asked: Asked) -> int:
        return int(self._do("C_UnwrapKey", Mechanism(KW), by, blob, list({**AES, **asked}.items())))

    def encrypt(self, key: int, block: bytes) -> bytes:
        self._do("C_EncryptInit", Mechanism(ECB), key)
        return bytes(self._do("C_Encrypt", block, 64))

    def decrypt(self, key: int, block: bytes) -> bytes:
        self._do("C_DecryptInit", Mechanism(ECB), key)
        return bytes(self._do("C_Decrypt", block, 64))

    def value(self, key: int) -> bytes:
        answers, rv = self._do("C_GetAttributeValue", key, [(CKA.VALUE, 64)])
        if rv:
            raise RefusedCall(f"{rv:#x}")
        return bytes(answers[0].value)

    def flags(self, key: int) -> tuple[bool, ...]:
        answers, _ = self._do("C_GetAttributeValue", key, [(flag, 1) for flag in FLAGS])
        return tuple(bool(answer.value) for answer in answers)


def knows_the_victim(state: State, values: set[bytes]) -> bool:
    """By what the victim encrypts, whose side it never leaves."""
    sealed = state.world.encrypt(state.keys[0][0], bytes(SIZE))
    return any(
        Cipher(algorithms.AES(value), modes.ECB()).encryptor().update(bytes(SIZE)) == sealed  # noqa: S305
        for value in values
        if len(value) == SIZE
    )


@pytest.fixture
def partition(softhsm: Path, tmp_path: Path) -> Iterator[Partition]:
    partition = Partition.open(tmp_path / "p", PartitionKeys("p", b"user pin", b"so pin"), softhsm)
    yield partition
    partition.close()


def told(result: Result, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{result}")


# Without the shorter ways the search finds the next ones.
SHORTER: Final = (
    (),
    ("create",),
    ("create", "change", "copy", "generate wrap and decrypt"),
    ("create", "change", "copy", "generate wrap and decrypt", "generate undecided", "decrypt"),
)


@pytest.mark.parametrize("without", SHORTER)
def test_the_plain_module_gives_a_key_out(
    without: tuple[str, ...], partition: Partition, capsys: pytest.CaptureFixture[str]
) -> None:
    world: World = Plain(Token(partition.module, open_session(partition.module, partition.slot)))
    result = search(world, knows_the_victim, 5, without)
    told(result, capsys)
    assert result.sequence is not None


def test_the_broker_gives_none_out(
    partition: Partition, path: HotLoop | None, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(store_of(partition), compiled=path)
    bench.grant(HsmState.ASSOCIATED)
    result = search(Brokered(bench.connect()), knows_the_victim, DEPTH)
    told(result, capsys)
    assert result.sequence is None
    assert 0 < result.refused < result.tried
