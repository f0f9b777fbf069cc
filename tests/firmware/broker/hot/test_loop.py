"""The library as Python has it: what is missing is said, the locks are locks, nothing it has outlives its connection."""

from __future__ import annotations

import ctypes
import ctypes.util
import gc
import threading
import weakref
from pathlib import Path

import pytest

from keyvisor_firmware.broker.hot import loop as module
from keyvisor_firmware.broker.hot.board import Board
from keyvisor_firmware.broker.hot.loop import HotLoop, HotLoopMissing, Lock, load


def test_where_it_is_not_built_that_is_said_and_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HotLoopMissing, match="not built: install a C compiler and run `make setup` again"):
        HotLoop(tmp_path / "hot_loop.so")
    monkeypatch.setattr(HotLoop.__init__, "__defaults__", (tmp_path / "hot_loop.so",))
    assert load() is None


def test_what_is_no_library_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "hot_loop.so").write_bytes(b"\x7fELF, and no more")
    with pytest.raises(HotLoopMissing, match="not built"):
        HotLoop(tmp_path / "hot_loop.so")


def test_one_of_another_release_is_not_used(loop: HotLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LAYOUT", module._LAYOUT + 8)
    with pytest.raises(HotLoopMissing, match="of another release: run `make setup` again"):
        HotLoop()
    assert load() is None


def test_one_that_lacks_a_function_is_of_another_release_too(
    loop: HotLoop,
) -> None:
    """The sizes alone do not tell: a function may be new."""
    name = ctypes.util.find_library("c")
    assert name is not None
    with pytest.raises(HotLoopMissing, match="of another release"):
        HotLoop(Path(name))


def test_the_layout_is_cs(loop: HotLoop) -> None:
    library = ctypes.CDLL(str(module.LIBRARY))
    library.kv_layout.restype = ctypes.c_uint64
    assert library.kv_layout() == module._LAYOUT
    assert ctypes.sizeof(module.Exchange) == 11 * 8


# --- locks


@pytest.fixture(params=["monitor", "sending"])
def lock(request: pytest.FixtureRequest, loop: HotLoop) -> Lock:
    found: Lock = getattr(loop.open(Board()), request.param)()
    return found


def test_a_lock_is_held_by_one(lock: Lock) -> None:
    assert lock.acquire()
    assert not lock.acquire(blocking=False)
    lock.release()
    with lock as held:
        assert held
        assert not lock.acquire(blocking=False)
    assert lock.acquire(blocking=False)
    lock.release()


def test_a_lock_is_given_back_whatever_happens(lock: Lock) -> None:
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
    assert lock.acquire(blocking=False)
    lock.release()


def test_a_lock_is_not_waited_for_by_the_clock(lock: Lock) -> None:
    assert lock.acquire(timeout=1.0)  # nobody has to wait
    with pytest.raises(ValueError, match="by the clock"):
        lock.acquire(timeout=1.0)
    lock.release()


def test_who_waits_for_a_lock_lets_the_interpreter_go(lock: Lock) -> None:
    entered, got = threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        with lock:
            got.set()

    lock.acquire()
    thread = threading.Thread(target=wait)
    thread.start()
    assert entered.wait(30)
    assert not got.wait(0.02)  # this thread runs all the same
    lock.release()
    thread.join(30)
    assert got.is_set()


def test_a_lock_keeps_threads_apart(lock: Lock) -> None:
    count = 0

    def add() -> None:
        nonlocal count
        for _ in range(5000):
            with lock:
                before = count
                count = before + 1

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert count == 20_000


def test_a_condition_takes_the_monitor_for_its_lock(loop: HotLoop) -> None:
    lock = loop.open(Board()).monitor()
    changed = threading.Condition(lock)  # type: ignore[arg-type]  # it asks for these methods only
    said: list[int] = []

    def listen() -> None:
        with changed:
            while len(said) < 100:
                changed.wait(30)
                changed.notify()

    thread = threading.Thread(target=listen)
    thread.start()
    for number in range(100):
        with changed:
            said.append(number)
            changed.notify()
    thread.join(60)
    assert not thread.is_alive()
    with pytest.raises(RuntimeError, match="un-acquired"):
        changed.notify()


def test_the_monitor_of_one_connection_is_its_own(loop: HotLoop) -> None:
    one, other = loop.open(Board()), loop.open(Board())
    with one.monitor():
        assert not one.monitor().acquire(blocking=False)
        with other.monitor(), one.sending():
            pass


# --- lifetimes


def test_a_connections_half_ends_with_it_but_not_before_its_locks(loop: HotLoop) -> None:
    hot = loop.open(Board())
    there, lock = weakref.ref(hot), hot.monitor()
    del hot
    gc.collect()
    with lock:  # it is in the connection's memory
        assert there() is not None
    del lock
    gc.collect()
    assert there() is None
