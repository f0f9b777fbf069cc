"""A module's functions, of which those that race with each other inside the module wait for each other.

SoftHSM 2.6.1 answers CKR_GENERAL_ERROR or CKR_FUNCTION_FAILED now and then where several threads make, destroy and
look for objects of one token (its issue 573): in 11 of 1500 rounds of three connections, and in none with these
functions one at a time. To leave the search out is not enough, but searches go well beside each other. Gates of two
guests that share a partition still race.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

Function = Callable[..., int]

# These change what the token holds, and are alone.
CHANGING: Final = frozenset(
    (
        "C_CreateObject",
        "C_CopyObject",
        "C_DestroyObject",
        "C_SetAttributeValue",
        "C_GenerateKey",
        "C_GenerateKeyPair",
        "C_UnwrapKey",
        "C_DeriveKey",
    )
)
# These look through it, and are beside each other.
LOOKING: Final = frozenset(("C_FindObjectsInit",))
RACING: Final = CHANGING | LOOKING
_REWRITES: Final = "C_SetAttributeValue"  # writes the whole object


class OneAtATime(Mapping[str, Function]):
    """The functions of one instance. The lock is the instance's, and held inside the module only.

    SoftHSM writes a changed object whole, as it knew it: so `across` keeps other processes from changing one at that time,
    or a power that one takes away would come back with what the other writes.
    """

    def __init__(
        self,
        functions: Mapping[str, Function],
        across: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._functions = functions
        self._across = across
        self._lock = SharedLock()

    def __getitem__(self, name: str) -> Function:
        function = self._functions[name]
        if name in CHANGING:
            alone = partial(self._within, self._lock.alone, function)
            # The lock across processes first: whoever wipes a partition holds it and destroys objects.
            return partial(self._within, self._across, alone) if name == _REWRITES else alone
        return partial(self._within, self._lock.shared, function) if name in LOOKING else function

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)

    def _within(
        self, hold: Callable[[], contextlib.AbstractContextManager[None]], function: Function, *arguments: int
    ) -> int:
        with hold():
            return function(*arguments)


class SharedLock:
    """Held by one thread alone, or by any number together. Who waits to be alone lets nobody more in before."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._queued = 0
        self._alone = False

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold it alone."""
        with self._changed:
            self._queued += 1
            while self._alone or self._sharing:
                self._changed.wait()
            self._queued -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Hold it together with others that do."""
        with self._changed:
            while self._alone or self._queued:
                self._changed.wait()
            self._sharing += 1
        try:
            yield
        finally:
            with self._changed:
                self._sharing -= 1
                if not self._sharing:
                    self._changed.notify_all()
