"""The chapter of sessions. A session is the application's; the module's is opened behind it when it is needed."""

from __future__ import annotations

from typing import Any, Final

from keyvisor_firmware.broker.calls import Call
from keyvisor_firmware.broker.codec import pack_reply
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.errors import Failed
from keyvisor_firmware.broker.handles import Session
from keyvisor_firmware.broker.pins import Who
from keyvisor_hsm.cryptoki import CKR
from keyvisor_hsm.cryptoki.flags import (
    CKF_RW_SESSION,
    CKF_SERIAL_SESSION,
    CKS_RO_PUBLIC_SESSION,
    CKS_RO_USER_FUNCTIONS,
    CKS_RW_PUBLIC_SESSION,
    CKS_RW_SO_FUNCTIONS,
    CKS_RW_USER_FUNCTIONS,
)

# Whether the session is read-write, who is logged in -> its state. The SO has no read-only sessions.
_STATES: Final = {
    (False, None): CKS_RO_PUBLIC_SESSION,
    (False, Who.USER): CKS_RO_USER_FUNCTIONS,
    (True, None): CKS_RW_PUBLIC_SESSION,
    (True, Who.USER): CKS_RW_USER_FUNCTIONS,
    (True, Who.SO): CKS_RW_SO_FUNCTIONS,
}


def c_open_session(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """A session on a bound HSM. Notifications and pApplication never travel."""
    slot_id, flags = values
    slot = connection.slot(slot_id)
    grant = slot.admit(call)
    if not flags & CKF_SERIAL_SESSION:
        raise Failed(CKR.SESSION_PARALLEL_NOT_SUPPORTED, "CKF_SERIAL_SESSION is not set")
    flags &= CKF_RW_SESSION | CKF_SERIAL_SESSION
    if not flags & CKF_RW_SESSION and connection.who(slot) is Who.SO:
        raise Failed(CKR.SESSION_READ_WRITE_SO_EXISTS, "the SO is logged in, and has no read-only sessions")
    with grant.keys.opening:
        session = connection.handles.add_session(slot, flags, grant.binding)
    return pack_reply(call, session.handle)


def c_close_session(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """Works whatever became of the HSM."""
    connection.close_session(connection.handles.session(values[0]))
    return pack_reply(call)


def c_close_all_sessions(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """Only this connection's sessions on the slot."""
    connection.drop_slot(connection.slot(values[0]))
    return pack_reply(call)


def c_get_session_info(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The state is that of the connection's own login, not of the token's."""
    session, _ = connection.enter(call, values)
    return pack_reply(call, session.slot.id, _session_state(connection, session), session.flags, 0)


def _session_state(connection: Connection, session: Session) -> int:
    return _STATES[bool(session.flags & CKF_RW_SESSION), connection.who(session.slot)]
