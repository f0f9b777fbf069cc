"""The open partitions of one gate, and which connection owns which session object in them.

A partition is opened once however many HSMs lead there. Session objects belong to one connection and one HSM,
whereas the module knows only its one token: the table here keeps them apart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from keyvisor_hsm.partitions import Partition, PartitionKeys

Owner = tuple[object, int]  # a connection and the id of a slot


class KeyStore:
    """One open partition: its module's functions, its slot, its mechanisms, and the owners of its session objects."""

    __slots__ = ("_partition", "call", "mechanisms", "owners", "slot", "token_objects", "users")

    def __init__(self, partition: Partition) -> None:
        self._partition = partition
        self.call = partition.module.call
        self.slot = partition.slot
        self.owners: dict[int, Owner] = {}
        self.token_objects: set[int] = set()
        self.mechanisms: dict[int, tuple[int, int, int]] = {}
        self.users = 0

    def close(self) -> None:
        """End the module's instance. Nobody may be inside."""
        self._partition.close()


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
