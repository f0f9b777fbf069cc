"""Calls that later versions of the protocol and of PKCS#11 have for older ones: the same, with one argument more or less."""

from __future__ import annotations

from typing import Any

from keyvisor_firmware.broker.calls import Call
from keyvisor_firmware.broker.chapters import login
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.errors import Failed
from keyvisor_hsm.cryptoki import CKR


def c_login_user(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """C_Login with a user's name. The users of an HSM have none here."""
    *_, name = values
    if name:
        connection.enter(call, values)
        raise Failed(CKR.USER_TYPE_INVALID, "users have no names here: log in without one")
    return login.c_login(connection, call, values)
