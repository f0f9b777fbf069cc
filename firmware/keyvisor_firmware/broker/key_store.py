"""The open partitions of one gate, and which connection owns which session object in them.

A partition is opened once however many HSMs lead there. Session objects belong to one connection and one HSM,
whereas the module knows only its one token: the table here keeps them apart.
"""

from __future__ import annotations

import contextlib
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from keyvisor_firmware.broker.calls import CALLS
from keyvisor_firmware.broker.errors import Failed
from keyvisor_firmware.broker.guard.wrapped_keys import WrappedKeys
from keyvisor_firmware.broker.hot.tables import ROWS
from keyvisor_firmware.broker.one_at_a_time import Function, OneAtATime
from keyvisor_firmware.broker.partition_room import PartitionRoom, count_token_objects
from keyvisor_firmware.broker.pin_file import PinFile
from keyvisor_hsm.cryptoki import CKR
from keyvisor_hsm.cryptoki.mechanism_list import MechanismInfo, list_mechanisms
from keyvisor_hsm.cryptoki.native import address_of_function
from keyvisor_hsm.errors import ModuleRefused
from keyvisor_hsm.partitions import Partition, PartitionKeys, exclusive

_SETTLING: Final = "settling.lock"

Owner = tuple[
    object, int, int
]  # a connection, the id of a slot, and the binding under which it made the object


class KeyStore:
    """One open partition: its module's functions, its slot, its mechanisms, and the owners of its session objects.

    `opening` is held while a session is opened on an HSM that leads here, and while all objects are destroyed, which
    must not happen where a session is open.
    """

    __slots__ = (
        "_mechanisms",
        "_partition",
        "_settling",
        "_wrapped",
        "call",
        "functions",
        "opening",
        "owners",
        "room",
        "slot",
        "token_objects",
        "users",
    )

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self.call: Mapping[str, Function] = OneAtATime(
            partition.module.call, lambda: exclusive(partition.directory)
        )
        self.functions = function_addresses(self.call)
        self.slot = partition.slot
        self.owners: dict[int, Owner] = {}
        self.token_objects: set[int] = set()
        self._mechanisms: dict[int, MechanismInfo] = {}
        self.opening = threading.Lock()
        self.room = PartitionRoom(self.owners, lambda: count_token_objects(self.call, self.slot))
        self.users = 0
        self._settling = threading.Lock()
        self._wrapped: WrappedKeys | None = None

    @property
    def wrapped(self) -> WrappedKeys:
        """What was wrapped in this partition."""
        with self._settling:
            if self._wrapped is None:
                key = self._partition.secret_for(b"wrapped keys")
                self._wrapped = WrappedKeys(self._partition.directory, key)
            return self._wrapped

    @contextlib.contextmanager
    def settling(self) -> Iterator[None]:
        """Keep everybody else from deciding what a key of this partition is for. Raises Failed."""
        try:
            with self._settling, exclusive(self._partition.directory, _SETTLING):
                yield
        except OSError as error:
            raise Failed(CKR.DEVICE_ERROR, f"the partition cannot be locked: {error.strerror}") from None

    @property
    def pins(self) -> PinFile:
        """The PINs that applications have set in this partition."""
        return PinFile(self._partition.directory)

    def authenticate(self, session: int) -> int:
        """Confirm the login for what the module's session has begun with a key that wants that; the CK_RV."""
        try:
            self._partition.authenticate(session)
        except ModuleRefused as refused:
            return refused.rv
        return CKR.OK

    def mechanisms(self) -> dict[int, MechanismInfo]:
        """What the token can do, asked once: it cannot change. Raises ModuleRefused."""
        if not self._mechanisms:
            self._mechanisms = list_mechanisms(self._partition.module, self.slot)
        return self._mechanisms

    def close(self) -> None:
        """End the module's instance. Nobody may be inside."""
        self._partition.close()


def function_addresses(call: Mapping[str, Function]) -> array[int]:
    """The addresses of a module's functions by the id of their call; 0 for those that only Python may call."""
    functions = array("Q", bytes(8 * ROWS))
    for row in CALLS:
        functions[row.id] = address_of_function(call.get(row.name))
    return functions


class KeyStores:
    """All partitions that this gate holds open, by directory."""

    def __init__(self, library: Path) -> None:
        self._library = library
        self._open: dict[Path, KeyStore] = {}
        self._lock = threading.Lock()

    def acquire(self, directory: Path, keys: PartitionKeys) -> KeyStore:
        """The store in `directory`, opened if nobody has. Raises PartitionUnusable."""
        with self._lock:
            store = self._open.get(directory)
            if store is None:
                store = self._open[directory] = KeyStore(Partition.open(directory, keys, self._library))
            store.users += 1
            return store

    def release(self, store: KeyStore, after: Callable[[], None]) -> None:
        """Give one use back. `after` returns when no call is inside the store on behalf of that use any more.

        The last use closes the store, so that its keys leave this process's memory.
        """
        after()
        with self._lock:
            store.users -= 1
            if store.users:
                return
            self._open = {path: other for path, other in self._open.items() if other is not store}
            store.close()
