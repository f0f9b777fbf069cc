"""Signals before a container runs and while it does, and what is missing. Sandboxes run in the end-to-end tests."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import pytest

from keyvisor_guest.containers.errors import Unservable
from keyvisor_guest.containers.running.supervising import Signals, check_bubblewrap


def waits_for(number: int, put_away: list[int]) -> None:
    try:
        os.kill(os.getpid(), number)
        select.select([], [], [], 30)
    finally:
        put_away.append(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_in_order_before_and_is_told_afterwards(number: int) -> None:
    before = signal.getsignal(number)
    put_away: list[int] = []
    with Signals() as signals:
        with pytest.raises(SystemExit) as ended:
            waits_for(number, put_away)
        assert ended.value.code == 128 + number
        signals.hold()
        os.kill(os.getpid(), number)
        assert select.select([signals.waiting], [], [], 30)[0] == [signals.waiting]
        assert os.read(signals.waiting, 1)[0] == number
        os.kill(os.getpid(), number)
        select.select([signals.waiting], [], [], 30)
        signals.forget()
        assert select.select([signals.waiting], [], [], 0)[0] == []
    assert put_away == [number]
    assert signal.getsignal(number) == before


def test_without_bubblewrap_nothing_is_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unservable, match="comes with the package `bubblewrap`"):
        check_bubblewrap()
