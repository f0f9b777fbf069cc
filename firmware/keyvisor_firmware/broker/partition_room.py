"""How many objects a key partition holds, so that a guest cannot fill the host's disk or the module's memory.

Session objects are those that the gate's connections own. Token objects are counted in the module when the first
object is made, and again before anything is refused: meanwhile others may have destroyed some, and two guests with the
same keys may have made some. In between only what this gate made is added, so that making one costs nothing more.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sized

from keyvisor_firmware.broker.errors import Failed
from keyvisor_hsm.cryptoki import CKA, CKR
from keyvisor_hsm.cryptoki.flags import CKF_SERIAL_SESSION
from keyvisor_hsm.cryptoki.native import Attribute, Template, Ulongs

_AT_A_TIME = 1024  # objects that the module is asked for at a time


class PartitionRoom:
    """The room of one open partition. Its methods may be called from any thread."""

    __slots__ = ("_count", "_lock", "_reserved", "_session_objects", "_token_objects")

    def __init__(self, session_objects: Sized, count: Callable[[], int]) -> None:
        self._session_objects = session_objects
        self._count = count
        self._lock = threading.Lock()
        self._reserved = 0
        self._token_objects: int | None = None

    @contextlib.contextmanager
    def reserved(self, wanted: int, most: int) -> Iterator[None]:
        """Room for `wanted` objects while a call makes them. Raises Failed where the partition would hold over `most`."""
        with self._lock:
            if self._token_objects is None or self._held(self._token_objects) + wanted > most:
                self._token_objects = self._count()
            if self._held(self._token_objects) + wanted > most:
                reason = f"the key partition holds {most} objects at most; destroy some"
                raise Failed(CKR.DEVICE_MEMORY, reason)
            self._reserved += wanted
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= wanted

    def kept(self) -> None:
        """One more token object was made."""
        with self._lock:
            if self._token_objects is not None:
                self._token_objects += 1

    def _held(self, token_objects: int) -> int:
        return token_objects + len(self._session_objects) + self._reserved


def count_token_objects(call: Mapping[str, Callable[..., int]], slot: int) -> int:
    """How many token objects the module has, private ones among them. Raises Failed."""
    session = Ulongs(1)
    _require(call["C_OpenSession"](slot, CKF_SERIAL_SESSION, 0, 0, session.address))
    try:
        template = Template((Attribute(CKA.TOKEN, b"\1"),))
        _require(call["C_FindObjectsInit"](session[0], template.address, template.count))
        found, count, total = Ulongs(_AT_A_TIME), Ulongs(1), 0
        while True:
            _require(call["C_FindObjects"](session[0], found.address, _AT_A_TIME, count.address))
            if not count[0]:
                return total
            total += count[0]
    finally:
        call["C_CloseSession"](session[0])


def _require(rv: int) -> None:
    if rv:
        raise Failed(CKR.DEVICE_ERROR, f"the HSM does not tell how many objects it has ({rv:#x})")
