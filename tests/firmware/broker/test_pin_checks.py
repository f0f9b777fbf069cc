"""While a PIN is hashed nobody waits for it, and what has changed meanwhile counts."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyvisor_firmware.broker import pin_checks
from keyvisor_firmware.broker.hot.loop import HotLoop
from keyvisor_firmware.broker.pins import PinHash, TokenPins, Who, changed, hash_new, hash_tried
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki import CKR
from keyvisor_hsm.partitions import Partition, PartitionKeys

from .in_process import SLOT_ID, Application, Bench, store_of
from .peer import SECONDS

PIN, SO_PIN = b"1234", b"so pin"


@pytest.fixture
def bench(softhsm: Path, tmp_path: Path, path: HotLoop | None) -> Iterator[Bench]:
    partition = Partition.open(tmp_path / "p", PartitionKeys("p", b"user pin", b"so pin"), softhsm)
    bench = Bench(store_of(partition), compiled=path)
    bench.grant(HsmState.ASSOCIATED)
    yield bench
    partition.close()


@pytest.fixture
def application(bench: Bench) -> Application:
    """An application of a token with both PINs, and without a session."""
    application = bench.connect()
    application.call("C_InitToken", SLOT_ID, SO_PIN, b"label")
    session = application.session()
    application.call("C_Login", session, Who.SO, SO_PIN)
    application.call("C_InitPIN", session, PIN)
    application.call("C_CloseSession", session)
    return application


class Slow:
    """A call in a thread of its own, held up while its PIN is hashed."""

    def __init__(self, application: Application, patch: pytest.MonkeyPatch, call: tuple[object, ...]) -> None:
        self._hashing, self._go_on = threading.Event(), threading.Event()
        self._answers: list[int] = []
        patch.setattr(pin_checks, "hash_tried", self._hash)
        name, *values = call
        self._thread = threading.Thread(
            target=lambda: self._answers.append(application.rv(str(name), *values)), daemon=True
        )

    def _hash(self, record: TokenPins, who: Who, pin: bytes) -> PinHash:
        self._hashing.set()
        assert self._go_on.wait(SECONDS)
        return hash_tried(record, who, pin)

    @contextlib.contextmanager
    def hashing(self) -> Iterator[None]:
        self._thread.start()
        assert self._hashing.wait(SECONDS)
        yield

    def answer(self) -> int:
        self._go_on.set()
        self._thread.join(SECONDS)
        (rv,) = self._answers
        return rv


def test_neither_the_connection_nor_another_waits(
    bench: Bench, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, other = application.session(), bench.connect()
    slow = Slow(application, monkeypatch, ("C_Login", session, Who.USER, PIN))
    with slow.hashing():
        assert len(application.call("C_GenerateRandom", session, 8)) == 8
        assert len(other.call("C_GenerateRandom", other.session(), 8)) == 8
        assert application.call("C_GetSessionInfo", session)[1] == 2
    assert slow.answer() == CKR.OK
    assert application.call("C_GetSessionInfo", session)[1] == 3


def test_a_session_that_was_closed_meanwhile_leaves_no_login(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = application.session()
    slow = Slow(application, monkeypatch, ("C_Login", session, Who.USER, PIN))
    with slow.hashing():
        application.call("C_CloseSession", session)
    assert slow.answer() == CKR.SESSION_HANDLE_INVALID
    assert application.call("C_GetSessionInfo", application.session())[1] == 2


def test_a_read_only_session_that_was_opened_meanwhile_keeps_the_so_out(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = application.session()
    slow = Slow(application, monkeypatch, ("C_Login", session, Who.SO, SO_PIN))
    with slow.hashing():
        application.session(flags=4)
    assert slow.answer() == CKR.SESSION_READ_ONLY_EXISTS


def test_an_hsm_that_was_unbound_meanwhile_takes_no_login(
    bench: Bench, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(application, monkeypatch, ("C_Login", application.session(), Who.USER, PIN))
    with slow.hashing():
        bench.revoke()
    assert slow.answer() == CKR.SESSION_HANDLE_INVALID


def test_a_session_that_was_opened_meanwhile_keeps_the_token_as_it_is(
    bench: Bench, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = bench.connect()
    slow = Slow(application, monkeypatch, ("C_InitToken", SLOT_ID, SO_PIN, b"other"))
    with slow.hashing():
        session = other.session()
    assert slow.answer() == CKR.SESSION_EXISTS
    assert other.call("C_GetTokenInfo", SLOT_ID)[0] == b"label".ljust(32)
    other.call("C_Login", session, Who.USER, PIN)


def test_an_hsm_that_was_unbound_meanwhile_is_not_made_anew(
    bench: Bench, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(application, monkeypatch, ("C_InitToken", SLOT_ID, SO_PIN, b"other"))
    bench.calls.made.clear()
    with slow.hashing():
        bench.revoke()
    assert slow.answer() == CKR.DEVICE_REMOVED
    assert bench.calls.made == []
    assert bench.store.pins.read().label == b"label".ljust(32)


def test_a_pin_that_was_changed_meanwhile_is_not_changed_back(
    bench: Bench, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = hash_new(b"theirs", bytes(16))
    slow = Slow(application, monkeypatch, ("C_SetPIN", application.session(), PIN, b"mine"))
    with slow.hashing():
        after = bench.store.pins.change(lambda record: changed(record, Who.USER, new))
    assert slow.answer() == CKR.PIN_INCORRECT
    assert bench.store.pins.read() == after
