"""The chapter of general purpose functions, and what several chapters share in their answers."""

from __future__ import annotations

from typing import Any, Final

from keyvisor_firmware.broker.calls import Call
from keyvisor_firmware.broker.codec import Needed, pack_reply
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.errors import Failed
from keyvisor_hsm.cryptoki import CKR

_CRYPTOKI: Final = (2, 40)
_BROKER: Final = (0, 1)
_HANDSHAKE: Final = b"PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1"
MAKER: Final = b"keyvisor".ljust(32)


def c_initialize(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The handshake string must be the protocol's; the reserved arguments are the client's own."""
    if values[0] != _HANDSHAKE:
        raise Failed(CKR.ARGUMENTS_BAD, "the handshake is not that of the p11-kit RPC")
    connection.begin()
    return pack_reply(call)


def c_finalize(connection: Connection, call: Call, _values: tuple[Any, ...]) -> bytes:
    """All sessions of the connection end, and so does a wait for slot events."""
    connection.close()
    return pack_reply(call)


def c_get_info(connection: Connection, call: Call, _values: tuple[Any, ...]) -> bytes:
    """Answered by the broker."""
    return pack_reply(call, _CRYPTOKI, MAKER, 0, padded(f"keyvisor, {connection.guest}", 32), _BROKER)


def fitting(values: list[int], room: int) -> list[int] | Needed:
    return values if room and len(values) <= room else Needed(len(values))


def padded(text: str, length: int) -> bytes:
    return text.encode("ascii", "replace")[:length].ljust(length)
