"""Setting PINs, and making the token anew: in the guest's own key partition, and never by the module's own functions.

The standard has these calls in its chapter on slots and tokens. The module's PINs are derived, and stay as they are.
"""

from __future__ import annotations

from typing import Any

from keyvisor_firmware.broker.calls import Call
from keyvisor_firmware.broker.codec import pack_reply
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.control_points import require_call_allowed
from keyvisor_firmware.broker.errors import Failed, Refused
from keyvisor_firmware.broker.handles import Session
from keyvisor_firmware.broker.key_store import KeyStore
from keyvisor_firmware.broker.pin_checks import new_hash, tried_hash
from keyvisor_firmware.broker.pins import TokenPins, Who, changed, initialised, require_unset, verified
from keyvisor_firmware.broker.slots import Grant, Slot
from keyvisor_firmware.broker.wiping import destroy_objects
from keyvisor_hsm.cryptoki import CKR
from keyvisor_hsm.cryptoki.flags import CKF_RW_SESSION


def c_init_token(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """All objects of the partition end, the user has no PIN any more, the SO has this one.

    A token that was initialised before wants its SO PIN. The label is 32 bytes; what an old client sends behind them
    is cut (pkcs11-rpc.md, section 6).
    """
    slot_id, pin, label = values
    slot = connection.slot(slot_id)
    grant = slot.admit(call)
    require_call_allowed(grant, call, slot.description.apqn)
    file = grant.keys.pins
    _require_no_session(connection, grant.keys)
    record = file.read()
    tried = None if record.so is None else tried_hash(connection, record, Who.SO, pin)
    new = new_hash(connection, pin)

    def initialise(now: TokenPins) -> TokenPins:
        if tried is None:
            require_unset(now, Who.SO)
        else:
            verified(now, Who.SO, tried)
        _wipe(connection, slot, grant)
        return initialised(label, new)

    file.change(initialise)
    return pack_reply(call)


def _wipe(connection: Connection, slot: Slot, grant: Grant) -> None:
    with grant.keys.opening:
        slot.confirm(grant)
        _require_no_session(connection, grant.keys)
        destroy_objects(grant.keys)


def _require_no_session(connection: Connection, keys: KeyStore) -> None:
    """Neither this HSM nor a spare that leads to the same partition may have a session of any connection."""
    for slot in list(connection.slots.values()):
        if slot.sessions and slot.grant is not None and slot.grant.keys is keys:
            apqn = slot.description.apqn
            raise Failed(CKR.SESSION_EXISTS, f"a session is open on HSM {apqn}", apqn)


def c_init_pin(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The SO sets the user's PIN, whatever it was, and however often it was missed."""
    _, pin = values
    _enter_as(connection, call, values, Who.SO)
    new = new_hash(connection, pin)
    grant = _enter_as(connection, call, values, Who.SO)
    grant.keys.pins.change(lambda now: changed(now, Who.USER, new))
    return pack_reply(call)


def c_set_pin(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The SO changes the SO's PIN, everybody else the user's; the old one is checked, and tries are counted.

    A user without a PIN sets the first one: logged in, and giving none as the old one.
    """
    _, old, pin = values
    session, grant = connection.enter(call, values)
    login = connection.who(session.slot)
    whose = Who.USER if login is None else login  # the SO is user type 0, and so counts as false
    _require_read_write(session)
    record = grant.keys.pins.read()
    if record.pin(whose) is None:
        _require_may_set_first(session.slot, login, old)
    tried = None if record.pin(whose) is None else tried_hash(connection, record, whose, old)
    new = new_hash(connection, pin)

    def change(now: TokenPins) -> TokenPins:
        if tried is None:
            require_unset(now, whose)
            return changed(now, whose, new)
        return changed(verified(now, whose, tried), whose, new)

    grant = _enter_as(connection, call, values, login)
    grant.keys.pins.change(change)
    return pack_reply(call)


def _enter_as(connection: Connection, call: Call, values: tuple[Any, ...], who: Who | None) -> Grant:
    """Let the call through on a read-write session of `who`; while a PIN was hashed the login may have ended."""
    session, grant = connection.enter(call, values)
    _require_read_write(session)
    if connection.who(session.slot) is not who:
        raise Failed(CKR.USER_NOT_LOGGED_IN, "somebody else has to be logged in for this")
    return grant


def _require_read_write(session: Session) -> None:
    if not session.flags & CKF_RW_SESSION:
        raise Failed(CKR.SESSION_READ_ONLY, "PINs are set in read-write sessions")


def _require_may_set_first(slot: Slot, login: Who | None, old: bytes | None) -> None:
    apqn = slot.description.apqn
    if login is not Who.USER:
        reason = f"HSM {apqn} has no user PIN: the user who is logged in sets the first, or the SO does (C_InitPIN)"
        raise Refused(CKR.PIN_INCORRECT, reason, apqn)
    if old:
        raise Refused(CKR.PIN_INCORRECT, "no PIN is set, and an old one was given: give none", apqn)
