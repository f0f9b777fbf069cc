"""Login and logout, and the PINs: the application's own, on its connection, never the module's."""

from __future__ import annotations

from typing import Any

from keyvisor_firmware.broker.calls import BY_NAME, Call
from keyvisor_firmware.broker.codec import pack_error, pack_reply
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.errors import Failed, Refused
from keyvisor_hsm.cryptoki import CKR
from keyvisor_hsm.cryptoki.flags import (
    CKU_USER,
)


def c_login(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The application's login, on this connection alone: no PIN is set, so none must be given."""
    handle, user, pin = values
    session, grant = connection.enter(call, handle)
    if user != CKU_USER:
        raise Failed(CKR.USER_TYPE_INVALID, "only the user logs in here")
    if connection.logged_in(session.slot):
        return pack_error(CKR.USER_ALREADY_LOGGED_IN)
    if pin:
        raise Refused(
            CKR.PIN_INCORRECT, "no PIN is set, and one was given: log in without (the token says so)"
        )
    connection.login(session.slot, grant.binding)
    return pack_reply(call)


def c_logout(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """Ends the connection's login, its private objects' handles and what was begun."""
    session, _ = connection.enter(call, values[0])
    if not connection.logged_in(session.slot):
        return pack_error(CKR.USER_NOT_LOGGED_IN)
    connection.logout(session.slot)
    return pack_reply(call)


def not_forwarded(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """A call that stands in the table and is not served yet. It is refused first where it would be refused anyway."""
    if call.request.startswith("u") and call is not BY_NAME["C_InitToken"]:
        connection.enter(call, values[0])
    elif call is BY_NAME["C_InitToken"]:
        connection.slot(values[0]).admit(call)
    return pack_error(CKR.FUNCTION_NOT_SUPPORTED)
