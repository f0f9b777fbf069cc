"""The chapter of random numbers."""

from __future__ import annotations

from typing import Any

from keyvisor_firmware.broker.calls import Call
from keyvisor_firmware.broker.codec import pack_error, pack_reply
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.errors import Failed
from keyvisor_firmware.broker.forward import EMPTY_POINTER
from keyvisor_hsm.cryptoki import CKR
from keyvisor_hsm.cryptoki.native import Memory


def c_generate_random(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The room is the number of bytes wanted; none are wanted is no error (pkcs11-rpc.md, section 6)."""
    session, grant = connection.enter(call, values)
    length = values[1]
    if length in (0, EMPTY_POINTER):
        return pack_reply(call, b"")
    if length > connection.limits.output:
        raise Failed(CKR.ARGUMENTS_BAD, f"{connection.limits.output} random bytes at a time")
    memory = Memory(length)
    rv = connection.invoke(session, grant, call.name, memory.address, length)
    return pack_error(rv) if rv else pack_reply(call, memory.read())
