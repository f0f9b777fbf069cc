"""Refused PKCS#11 calls on their way into the audit log: equal ones are counted, and no guest can fill the log with them.

The first of a kind is due at once; those that follow within the window are one record more, with their count. A guest
has an allowance of kinds that comes back slowly; what goes beyond it is counted all the same, in one record per window.
So whatever a guest's applications do, what is recorded of it is bounded, and nothing of it waits for a disk. In memory
only: a crash loses what is not written yet. Knows no gate and no database; the time comes from outside.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from keyvisor_hsm.cards import ConfigurationData

WINDOW: Final = 60.0  # seconds in which equal refusals are one record
ALLOWANCE: Final = 256  # kinds of refusal that a guest has recorded in one go
RETURNS: Final = 60.0  # seconds in which it may have one more
LONGEST: Final = 512  # characters of a reason


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """A call that a guest's gate refused. `at` is ISO 8601, UTC; `hsm` and `state` are what the daemon knew of it then."""

    guest: str
    at: str
    call: str
    code: str
    reason: str
    apqn: str | None = None
    hsm: ConfigurationData | None = None
    state: str | None = None
    because: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> tuple[str | None, ...]:
        """What equal refusals have in common."""
        because = json.dumps(dict(self.because), sort_keys=True) if self.because else None
        return self.guest, self.apqn, self.call, self.code, self.reason[:LONGEST], because


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be recorded: so many of one kind; `call` is the first of them, None for those beyond the allowance."""

    guest: str
    call: RefusedCall | None
    count: int
    first: str
    last: str


@dataclass(slots=True)
class _Counted:
    """Those that are not recorded yet."""

    since: float
    first: str = ""
    last: str = ""
    count: int = 0

    def note(self, at: str) -> None:
        self.first, self.last = self.first or at, at
        self.count += 1

    def due(self, guest: str, call: RefusedCall | None) -> Due:
        due = Due(guest, call, self.count, self.first, self.last)
        self.first, self.count = "", 0
        return due


@dataclass(slots=True)
class _Allowance:
    left: float
    at: float

    def take(self, now: float) -> bool:
        self.left = min(ALLOWANCE, self.left + (now - self.at) / RETURNS)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class RefusedCalls:
    """Takes them in from any thread, without waiting. `clock` tells seconds that never go back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str | None, ...], tuple[RefusedCall, _Counted]] = {}
        self._new: list[tuple[str | None, ...]] = []
        self._beyond: dict[str, _Counted] = {}
        self._allowances: dict[str, _Allowance] = {}

    def note(self, call: RefusedCall) -> None:
        """A call was refused."""
        kind, now = call.kind, self._clock()
        with self._lock:
            known = self._kinds.get(kind)
            if known is not None:
                known[1].note(call.at)
                return
            allowance = self._allowances.setdefault(call.guest, _Allowance(ALLOWANCE, now))
            if allowance.take(now):
                counted = _Counted(now)
                self._kinds[kind] = call, counted
                self._new.append(kind)
            else:
                counted = self._beyond.setdefault(call.guest, _Counted(now))
            counted.note(call.at)

    def due(self, *, all_of_it: bool = False) -> tuple[Due, ...]:
        """What is to be recorded now: the first of each kind, and the rest of those whose window is over, or all of it."""
        now = self._clock()
        with self._lock:
            found = [self._first(kind) for kind in self._new]
            self._new.clear()
            for kind, (call, counted) in tuple(self._kinds.items()):
                if all_of_it or now - counted.since >= WINDOW:
                    if counted.count:
                        found.append(counted.due(call.guest, call))
                    del self._kinds[kind]
            for guest, counted in tuple(self._beyond.items()):
                if all_of_it or now - counted.since >= WINDOW:
                    found.append(counted.due(guest, None))
                    del self._beyond[guest]
            self._forget_allowances(now)
        return tuple(found)

    def _first(self, kind: tuple[str | None, ...]) -> Due:
        call, counted = self._kinds[kind]
        return counted.due(call.guest, call)

    def _forget_allowances(self, now: float) -> None:
        """Those that are whole again are as if they had never been."""
        for guest, allowance in tuple(self._allowances.items()):
            if allowance.left + (now - allowance.at) / RETURNS >= ALLOWANCE:
                del self._allowances[guest]
