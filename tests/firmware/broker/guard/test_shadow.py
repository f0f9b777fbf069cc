"""Random lives of keys beside a model of what each could ever do, in the broker's code with a real partition."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyvisor_firmware.broker.guard.roles import ALL_POWERS
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki import CKA, CKM
from keyvisor_hsm.partitions import Partition, PartitionKeys

from ..encoder import CallFailed, Mechanism
from ..in_process import Application, Bench, store_of

KW, ECB = Mechanism(CKM.AES_KEY_WRAP), Mechanism(CKM.AES_ECB)
AES = [(CKA.CLASS, 4), (CKA.KEY_TYPE, 0x1F)]


@dataclass
class Life:
    """One value: what it has done, under any handle, and whether it was ever sensitive, or may ever be extractable."""

    handles: list[int] = field(default_factory=list)
    did_data: bool = False
    did_wrap: bool = False
    sensitive: bool = False


@pytest.fixture(scope="module")
def application(softhsm: Path) -> Iterator[Application]:
    with tempfile.TemporaryDirectory() as home:
        partition = Partition.open(Path(home) / "p", PartitionKeys("p", b"user pin", b"so pin"), softhsm)
        bench = Bench(store_of(partition))
        bench.grant(HsmState.ASSOCIATED)
        yield bench.connect()
        partition.close()


CALLS = st.sampled_from(["generate", "wrap", "unwrap", "encrypt", "decrypt", "copy", "change"])
FLAGS = st.dictionaries(st.sampled_from([*ALL_POWERS, CKA.SENSITIVE, CKA.EXTRACTABLE]), st.booleans())
PICKS = st.integers(0, 1 << 16)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CALLS, PICKS, PICKS, FLAGS), max_size=25))
def test_no_key_ever_does_both(
    application: Application, lives: list[tuple[str, int, int, dict[CKA, bool]]]
) -> None:
    world = Model(application)
    for name, one, other, flags in lives:
        try:
            getattr(world, name)(one, other, flags)
        except CallFailed:
            continue
        finally:
            world.check()
    application.call("C_CloseSession", world.session)


class Model:
    """Notes what a call that went well did to the value behind a handle."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.session = application.session(login=True)
        self.lives: list[Life] = []
        self.blobs: list[tuple[bytes, int, Life]] = []

    def call(self, name: str, *values: Any) -> Any:
        return self.application.call(name, self.session, *values)

    def pick(self, number: int) -> tuple[Life, int]:
        known = [(life, handle) for life in self.lives for handle in life.handles]
        if not known:
            raise CallFailed(1)
        return known[number % len(known)]

    def generate(self, _one: int, _other: int, flags: dict[CKA, bool]) -> None:
        asked = {CKA.EXTRACTABLE: True, **flags, CKA.VALUE_LEN: 16}
        handle = self.call("C_GenerateKey", Mechanism(CKM.AES_KEY_GEN), list(asked.items()))
        self.lives.append(Life([handle]))

    def wrap(self, one: int, other: int, _flags: dict[CKA, bool]) -> None:
        (by, by_handle), (life, handle) = self.pick(one), self.pick(other)
        blob = self.call("C_WrapKey", KW, by_handle, handle, 256)
        by.did_wrap = True
        self.blobs.append((blob, by_handle, life))

    def unwrap(self, one: int, other: int, flags: dict[CKA, bool]) -> None:
        if not self.blobs:
            return
        blob, by_handle, life = self.blobs[one % len(self.blobs)]
        life.handles.append(self.call("C_UnwrapKey", KW, by_handle, blob, [*AES, *flags.items()]))
        next(other for other in self.lives if by_handle in other.handles).did_wrap = True

    def encrypt(self, one: int, _other: int, _flags: dict[CKA, bool]) -> None:
        self._data("Encrypt", one)

    def decrypt(self, one: int, _other: int, _flags: dict[CKA, bool]) -> None:
        self._data("Decrypt", one)

    def _data(self, name: str, one: int) -> None:
        life, handle = self.pick(one)
        self.call(f"C_{name}Init", ECB, handle)
        self.call(f"C_{name}", bytes(16), 64)
        life.did_data = True

    def copy(self, one: int, _other: int, flags: dict[CKA, bool]) -> None:
        life, handle = self.pick(one)
        life.handles.append(self.call("C_CopyObject", handle, [(CKA.LABEL, b"copy"), *flags.items()]))

    def change(self, one: int, _other: int, flags: dict[CKA, bool]) -> None:
        _, handle = self.pick(one)
        self.call("C_SetAttributeValue", handle, list(flags.items()))

    def check(self) -> None:
        """No value has done both; and what has a sensitive handle once is readable by none that came later."""
        for life in self.lives:
            assert not (life.did_data and life.did_wrap)
            if life.sensitive:
                last = life.handles[-1]
                answers, rv = self.call("C_GetAttributeValue", last, [(CKA.SENSITIVE, 1)])
                assert (rv, answers[0].value) == (0, True)
            first = self.call("C_GetAttributeValue", life.handles[0], [(CKA.SENSITIVE, 1)])[0][0].value
            if first and len(life.handles) == 1:
                life.sensitive = True
