"""Hashing PINs on behalf of a connection: slow, so nobody's lock is held meanwhile; big, so only a few at a time."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator
from typing import Final

from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.pins import SALT_SIZE, PinHash, TokenPins, Who, hash_new, hash_tried

_AT_A_TIME: Final = 4  # PINs that a gate hashes at once, 16 MiB each
_ROOM: Final = threading.BoundedSemaphore(_AT_A_TIME)


def new_hash(connection: Connection, pin: bytes | None) -> PinHash:
    """The hash of a PIN that is to be set. Raises Failed. The connection's lock is free meanwhile."""
    with _room(connection):
        return hash_new(pin or b"", secrets.token_bytes(SALT_SIZE))


def tried_hash(connection: Connection, record: TokenPins, who: Who, pin: bytes | None) -> PinHash:
    """The hash of a PIN that is to be checked. Raises Failed. The connection's lock is free meanwhile."""
    with _room(connection):
        return hash_tried(record, who, pin or b"")


@contextlib.contextmanager
def _room(connection: Connection) -> Iterator[None]:
    with connection.released(), _ROOM:
        yield
