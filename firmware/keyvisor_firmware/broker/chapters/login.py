"""Login and logout: the application's own, on its connection, never the module's.

While a PIN is hashed the connection's other calls go on, so what a login stands on is looked at again afterwards.
"""

from __future__ import annotations

from typing import Any

from keyvisor_firmware.broker.calls import Call
from keyvisor_firmware.broker.codec import pack_error, pack_reply
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.errors import Failed, Refused
from keyvisor_firmware.broker.handles import Session
from keyvisor_firmware.broker.pin_checks import tried_hash
from keyvisor_firmware.broker.pins import Who, verified
from keyvisor_firmware.broker.slots import Grant, Slot
from keyvisor_hsm.cryptoki import CKR
from keyvisor_hsm.cryptoki.flags import CKF_RW_SESSION, CKU_CONTEXT_SPECIFIC


def c_login(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The login of the user or the SO (PKCS#11 2.40, C_Login), on this connection alone."""
    user, pin = values[1:3]  # behind them a name may come, which is empty
    session, grant = connection.enter(call, values)
    if user == CKU_CONTEXT_SPECIFIC:
        return _login_again(connection, call, values, session, grant)
    if user not in tuple(Who):
        raise Failed(CKR.USER_TYPE_INVALID, "the user and the SO log in here")
    who = Who(user)
    _require_may_log_in(connection, session.slot, who)
    _check_pin(connection, session.slot, grant, who, pin)
    session = _enter_again(connection, call, values, grant)
    _require_may_log_in(connection, session.slot, who)
    connection.login(session.slot, grant.binding, who)
    return pack_reply(call)


def _login_again(
    connection: Connection, call: Call, values: tuple[Any, ...], session: Session, grant: Grant
) -> bytes:
    """The user's PIN once more, for an operation with a key that wants that (CKA_ALWAYS_AUTHENTICATE)."""
    _require_begun(connection, session)
    _check_pin(connection, session.slot, grant, Who.USER, values[2])
    while session.ticket.inside:
        connection.wait()
    session = _enter_again(connection, call, values, grant)
    _require_begun(connection, session)
    rv = grant.keys.authenticate(session.ticket.real)
    return pack_error(rv) if rv else pack_reply(call)


def _enter_again(connection: Connection, call: Call, values: tuple[Any, ...], grant: Grant) -> Session:
    """The session, still there after its PIN was checked, and still in the partition whose PIN that is."""
    session, now = connection.enter(call, values)
    if now.keys is not grant.keys:
        raise Failed(CKR.DEVICE_REMOVED, "the HSM was associated anew while the PIN was checked")
    return session


def _require_begun(connection: Connection, session: Session) -> None:
    if not session.ticket.began:
        raise Failed(CKR.OPERATION_NOT_INITIALIZED, "nothing was begun that wants a login of its own")
    if not connection.logged_in(session.slot):
        raise Failed(CKR.USER_NOT_LOGGED_IN, "the user is not logged in")


def _require_may_log_in(connection: Connection, slot: Slot, who: Who) -> None:
    present = connection.who(slot)
    if present is who:
        raise Failed(CKR.USER_ALREADY_LOGGED_IN, "the same is logged in already")
    if present is not None:
        raise Failed(CKR.USER_ANOTHER_ALREADY_LOGGED_IN, "another is logged in; log out first")
    if who is Who.SO and any(not one.flags & CKF_RW_SESSION for one in connection.handles.on_slot(slot)):
        raise Failed(CKR.SESSION_READ_ONLY_EXISTS, "the SO has no read-only sessions, and one is open")


def _check_pin(connection: Connection, slot: Slot, grant: Grant, who: Who, pin: bytes | None) -> None:
    """Raise Refused unless the PIN opens. While nobody has set one, giving none does: the protected path.

    An SO without a PIN gets CKR_USER_PIN_NOT_INITIALIZED: of the codes that C_Login may answer it is the one that
    tells an application to initialise first, although the standard words it for the user.
    """
    apqn, file = slot.description.apqn, grant.keys.pins
    record = file.read()
    if record.pin(who) is not None:
        tried = tried_hash(connection, record, who, pin)
        file.change(lambda now: verified(now, who, tried))
    elif who is Who.SO:
        reason = f"the token of HSM {apqn} has no SO PIN: initialise it first (C_InitToken)"
        raise Refused(CKR.USER_PIN_NOT_INITIALIZED, reason, apqn)
    elif not record.untouched:
        reason = f"the token of HSM {apqn} was made anew and has no user PIN yet: the SO sets it (C_InitPIN)"
        raise Refused(CKR.USER_PIN_NOT_INITIALIZED, reason, apqn)
    elif pin:
        reason = "no PIN is set, and one was given: log in without (the token says so)"
        raise Refused(CKR.PIN_INCORRECT, reason, apqn)


def c_logout(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """Ends the connection's login, its private objects' handles and what was begun."""
    session, _ = connection.enter(call, values)
    if connection.who(session.slot) is None:
        return pack_error(CKR.USER_NOT_LOGGED_IN)
    connection.logout(session.slot)
    return pack_reply(call)
