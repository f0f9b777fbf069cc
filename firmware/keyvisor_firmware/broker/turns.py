"""Who reads a connection: one thread at a time has the turn. Knows no bytes.

A thread that is about to do something slow hands the turn on: to one that waits for it, else to a new one, of which
there are only so many.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from keyvisor_firmware.broker.hot.loop import HotConnection


class Baton(Protocol):
    """The turn itself."""

    def take(self) -> bool:
        """Wait for the turn. False where nobody reads any more."""
        ...

    def queued(self) -> bool:
        """Whether a thread waits for the turn. Only whoever has it may ask."""
        ...

    def hand_on(self) -> None:
        """Give the turn up."""

    def growing(self, more: bool) -> None:
        """Whether more threads may be made to read."""

    def finish(self) -> None:
        """Nobody reads any more."""


class PlainBaton:
    """The turn of a connection that Python alone reads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._free = True
        self._queued = 0
        self._over = False

    def take(self) -> bool:
        with self._changed:
            self._queued += 1
            while not self._free and not self._over:
                self._changed.wait()
            self._queued -= 1
            self._free = False
            return not self._over

    def queued(self) -> bool:
        with self._changed:
            return self._queued > 0

    def hand_on(self) -> None:
        with self._changed:
            self._free = True
            self._changed.notify()

    def growing(self, more: bool) -> None:
        """It makes no difference here."""

    def finish(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()


class HotBaton:
    """The turn of a connection that the hot loop reads, which hands it on without the interpreter where it can."""

    def __init__(self, hot: HotConnection) -> None:
        self._hot = hot
        self._pointer, self._loop = hot.pointer, hot.loop

    def take(self) -> bool:
        return bool(self._loop.take_turn(self._pointer))

    def queued(self) -> bool:
        return bool(self._loop.queued(self._pointer))

    def hand_on(self) -> None:
        self._loop.hand_on(self._pointer)

    def growing(self, more: bool) -> None:
        self._loop.set_growing(self._pointer, more)

    def finish(self) -> None:
        self._loop.end_turns(self._pointer)


class Turns:
    """The threads of a connection that take turns, `most` at most beside the first."""

    def __init__(self, baton: Baton, most: int) -> None:
        self._baton = baton
        self._most = most
        self._threads: list[threading.Thread] = []
        self._ending = threading.Lock()
        self.end: BaseException | None = None
        baton.growing(most > 0)

    def take(self) -> bool:
        """Wait for the turn to read. False if the connection has ended."""
        return self._baton.take()

    def room(self) -> bool:
        """Whether `hand_on` will be heard. Only whoever has the turn may ask: it stays so meanwhile."""
        return len(self._threads) < self._most or self._baton.queued()

    def hand_on(self, work: Callable[[], None]) -> bool:
        """Let another thread read, a new one if need be. False if there are as many as there may be, all busy."""
        if not self._baton.queued():
            if len(self._threads) >= self._most:
                return False
            self._threads.append(threading.Thread(target=work, daemon=True))
            self._threads[-1].start()
            self._baton.growing(len(self._threads) < self._most)
        self._baton.hand_on()
        return True

    def finish(self, end: BaseException) -> None:
        """Nobody reads any more. What ended it first is kept."""
        with self._ending:
            self.end = self.end or end
        self._baton.finish()

    def join(self) -> None:
        """Wait until the other threads are done with what they do."""
        for thread in self._threads:
            thread.join()
