"""The calls that the broker answers itself, or around which it does more than forward: one function each.

General information, slots and tokens, sessions and logins, finding and reading objects, random numbers. All other
calls are forwarded as they are (forward.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from keyvisor_firmware.broker.attributes import Answer, ValueClass, value_class
from keyvisor_firmware.broker.calls import BY_ID, BY_NAME, Call
from keyvisor_firmware.broker.codec import Needed, pack_error, pack_reply
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.errors import Failed, Refused
from keyvisor_firmware.broker.forward import EMPTY_POINTER, forward
from keyvisor_firmware.broker.handles import Session
from keyvisor_firmware.broker.key_store import KeyStore
from keyvisor_firmware.broker.limits import MAX_ATTRIBUTE_ROOM, MAX_OUTPUT, MAX_ULONGS
from keyvisor_firmware.broker.slots import Grant, Slot
from keyvisor_hsm.cryptoki import CKA, CKR
from keyvisor_hsm.cryptoki.flags import (
    CK_UNAVAILABLE_INFORMATION,
    CKF_DONT_BLOCK,
    CKF_LOGIN_REQUIRED,
    CKF_PROTECTED_AUTHENTICATION_PATH,
    CKF_REMOVABLE_DEVICE,
    CKF_RNG,
    CKF_RW_SESSION,
    CKF_SERIAL_SESSION,
    CKF_TOKEN_INITIALIZED,
    CKF_TOKEN_PRESENT,
    CKF_USER_PIN_INITIALIZED,
    CKS_RO_PUBLIC_SESSION,
    CKS_RO_USER_FUNCTIONS,
    CKS_RW_PUBLIC_SESSION,
    CKS_RW_USER_FUNCTIONS,
    CKU_USER,
)
from keyvisor_hsm.cryptoki.native import Attribute, Memory, Query, Template, Ulongs

Chapter = Callable[[Connection, Call, tuple[Any, ...]], bytes]

_CRYPTOKI: Final = (2, 40)
_BROKER: Final = (0, 1)
_MAKER: Final = b"keyvisor".ljust(32)
_HANDSHAKE: Final = b"PRIVATE-GNOME-KEYRING-PKCS11-PROTOCOL-V-1"
_TOKEN_FLAGS: Final = (
    CKF_RNG
    | CKF_LOGIN_REQUIRED
    | CKF_USER_PIN_INITIALIZED
    | CKF_TOKEN_INITIALIZED
    | CKF_PROTECTED_AUTHENTICATION_PATH
)
_FALSE = b"\0"


# --- general


def c_initialize(_connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The handshake string must be the protocol's; the reserved arguments are the client's own."""
    if values[0] != _HANDSHAKE:
        raise Failed(CKR.ARGUMENTS_BAD, "the handshake is not that of the p11-kit RPC")
    return pack_reply(call)


def c_finalize(connection: Connection, call: Call, _values: tuple[Any, ...]) -> bytes:
    """All sessions of the connection end."""
    connection.close()
    return pack_reply(call)


def c_get_info(connection: Connection, call: Call, _values: tuple[Any, ...]) -> bytes:
    """Answered by the broker."""
    return pack_reply(call, _CRYPTOKI, _MAKER, 0, _padded(f"keyvisor, {connection.guest}", 32), _BROKER)


def c_wait_for_slot_event(_connection: Connection, _call: Call, values: tuple[Any, ...]) -> bytes:
    """There is never an event to tell without waiting, and waiting would hold up the connection."""
    if values[0] & CKF_DONT_BLOCK:
        return pack_error(CKR.NO_EVENT)
    return pack_error(CKR.FUNCTION_NOT_SUPPORTED)


def not_forwarded(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """A call that stands in the table and is not served yet. It is refused first where it would be refused anyway."""
    if call.request.startswith("u") and call is not BY_NAME["C_InitToken"]:
        connection.enter(call, values[0])
    elif call is BY_NAME["C_InitToken"]:
        connection.slot(values[0]).admit(call)
    return pack_error(CKR.FUNCTION_NOT_SUPPORTED)


# --- slots and tokens


def c_get_slot_list(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The HSMs attached to the guest, in APQN order; with tokenPresent those that are bound."""
    token_present, room = values
    ids = sorted(id_ for id_, slot in list(connection.slots.items()) if not token_present or slot.present())
    return pack_reply(call, _fitting(ids, room))


def c_get_slot_info(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """What is known of an attached HSM, bound or not."""
    slot = connection.slot(values[0])
    about = slot.description
    flags = CKF_REMOVABLE_DEVICE | (CKF_TOKEN_PRESENT if slot.present() else 0)
    description = _padded(f"keyvisor HSM {about.apqn} ({about.generation}, {about.mode})", 64)
    return pack_reply(call, description, _MAKER, flags, (_hardware(slot), 0), about.firmware)


def c_get_token_info(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The token of a bound HSM: its label is the APQN, its serial number the card's."""
    slot = connection.slot(values[0])
    slot.admit(call)
    about = slot.description
    unknown = CK_UNAVAILABLE_INFORMATION
    return pack_reply(
        call,
        _padded(about.apqn, 32),
        _MAKER,
        _padded(f"{about.generation} {about.mode}", 16),
        _padded(about.serial, 16),
        _TOKEN_FLAGS,
        0,  # ulMaxSessionCount: effectively infinite
        len(connection.handles.on_slot(slot)),
        0,  # ulMaxRwSessionCount: effectively infinite
        sum(1 for session in connection.handles.on_slot(slot) if session.flags & CKF_RW_SESSION),
        255,  # ulMaxPinLen
        0,  # ulMinPinLen
        *(unknown, unknown, unknown, unknown),
        (_hardware(slot), 0),
        about.firmware,
        b" " * 16,
    )


def c_get_mechanism_list(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """What the module behind a bound HSM can do."""
    slot_id, room = values
    grant = connection.slot(slot_id).admit(call)
    return pack_reply(call, _fitting(list(_mechanisms(grant.keys)), room))


def c_get_mechanism_info(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """Sizes and flags of one mechanism."""
    slot_id, mechanism = values
    grant = connection.slot(slot_id).admit(call)
    info = _mechanisms(grant.keys).get(mechanism)
    if info is None:
        return pack_error(CKR.MECHANISM_INVALID)
    return pack_reply(call, *info)


def _mechanisms(keys: KeyStore) -> dict[int, tuple[int, int, int]]:
    """The module's mechanisms with their info, asked once: they cannot change."""
    if not keys.mechanisms:
        count = Ulongs(1)
        keys.call["C_GetMechanismList"](keys.slot, 0, count.address)
        types = Ulongs(count[0])
        if rv := keys.call["C_GetMechanismList"](keys.slot, types.address, count.address):
            raise Failed(CKR.DEVICE_ERROR, f"the HSM lists no mechanisms ({rv:#x})")
        found = {}
        for type_ in types.values(count[0]):
            info = Ulongs(3)
            if keys.call["C_GetMechanismInfo"](keys.slot, type_, info.address) == CKR.OK:
                found[type_] = (info[0], info[1], info[2])
        keys.mechanisms = found
    return keys.mechanisms


# --- sessions and logins


def c_open_session(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """A session on a bound HSM. Notifications and pApplication never travel."""
    slot_id, flags = values
    slot = connection.slot(slot_id)
    grant = slot.admit(call)
    if not flags & CKF_SERIAL_SESSION:
        raise Failed(CKR.SESSION_PARALLEL_NOT_SUPPORTED, "CKF_SERIAL_SESSION is not set")
    flags &= CKF_RW_SESSION | CKF_SERIAL_SESSION
    return pack_reply(call, connection.handles.add_session(slot, flags, grant.binding).handle)


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
    session, _ = connection.enter(call, values[0])
    return pack_reply(call, session.slot.id, _session_state(connection, session), session.flags, 0)


def _session_state(connection: Connection, session: Session) -> int:
    user = connection.logged_in(session.slot)
    if session.flags & CKF_RW_SESSION:
        return CKS_RW_USER_FUNCTIONS if user else CKS_RW_PUBLIC_SESSION
    return CKS_RO_USER_FUNCTIONS if user else CKS_RO_PUBLIC_SESSION


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


# --- objects


def c_destroy_object(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The handle goes with the object."""
    session, grant = connection.enter(call, values[0])
    named = connection.object(session, grant, values[1], CKR.OBJECT_HANDLE_INVALID)
    rv = connection.invoke(session, grant, call.name, named.real)
    if rv:
        return pack_error(rv)
    connection.forget(named)
    return pack_reply(call)


def c_get_object_size(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The reply is a number, not a handle."""
    session, grant = connection.enter(call, values[0])
    named = connection.object(session, grant, values[1], CKR.OBJECT_HANDLE_INVALID)
    size = Ulongs(1)
    rv = connection.invoke(session, grant, call.name, named.real, size.address)
    return pack_error(rv) if rv else pack_reply(call, size[0])


# CK_RVs of C_GetAttributeValue that leave attributes behind: they travel inside the reply (4.3).
_PARTIAL: Final = frozenset(
    (CKR.OK, CKR.ATTRIBUTE_SENSITIVE, CKR.ATTRIBUTE_TYPE_INVALID, CKR.BUFFER_TOO_SMALL)
)


def c_get_attribute_value(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """As many attributes as were asked, in the same order. Nested templates cannot travel to this client (4.2)."""
    session, grant = connection.enter(call, values[0])
    named = connection.object(session, grant, values[1], CKR.OBJECT_HANDLE_INVALID)
    wanted: tuple[tuple[int, int], ...] = values[2]
    asked = [(type_, room) for type_, room in wanted if value_class(type_) is not ValueClass.ATTRIBUTES]
    query = Query(_within_limits(asked))
    rv = int(CKR.OK)
    if asked or not wanted:
        rv = connection.invoke(session, grant, call.name, named.real, query.address, query.count)
    if rv not in _PARTIAL:
        return pack_error(rv)
    found = iter([query.answer(index) for index in range(query.count)])
    answers = []
    for type_, _ in wanted:
        if value_class(type_) is ValueClass.ATTRIBUTES:
            answers.append(Answer(type_, None, None))
            rv = rv or CKR.ATTRIBUTE_TYPE_INVALID
        else:
            answers.append(Answer(type_, *next(found)))
    return pack_reply(call, answers, rv)


def _within_limits(asked: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The rooms cut to what one attribute, and all together, may take."""
    left, cut = MAX_OUTPUT, []
    for type_, room in asked:
        given = min(room, MAX_ATTRIBUTE_ROOM, left)
        left -= given
        cut.append((type_, given))
    return cut


def c_find_objects_init(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """Who is not logged in finds public objects only."""
    session, grant = connection.enter(call, values[0])
    attributes: tuple[Attribute, ...] = values[1]
    if not connection.logged_in(session.slot):
        attributes = (*attributes, Attribute(CKA.PRIVATE, _FALSE))
    template = Template(attributes)
    rv = connection.invoke(session, grant, call.name, template.address, template.count)
    return pack_error(rv) if rv else pack_reply(call)


def c_find_objects(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """Session objects of other connections and other HSMs are left out."""
    session, grant = connection.enter(call, values[0])
    room = min(values[1], MAX_ULONGS)
    found: list[int] = []
    while len(found) < room:
        reals, count = Ulongs(room - len(found)), Ulongs(1)
        rv = connection.invoke(session, grant, call.name, reals.address, room - len(found), count.address)
        if rv:
            return pack_error(rv)
        if not count[0]:
            break
        found += _named(connection, session, grant, reals.values(count[0]))
    return pack_reply(call, found)


def _named(connection: Connection, session: Session, grant: Grant, reals: tuple[int, ...]) -> list[int]:
    return [
        connection.handles.name_object(session.slot, grant.keys, real).handle
        for real in reals
        if connection.owns(session, grant.keys, real)
    ]


# --- random numbers


def c_generate_random(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The room is the number of bytes wanted; none are wanted is no error (pkcs11-rpc.md, section 6)."""
    session, grant = connection.enter(call, values[0])
    length = values[1]
    if length in (0, EMPTY_POINTER):
        return pack_reply(call, b"")
    if length > MAX_OUTPUT:
        raise Failed(CKR.ARGUMENTS_BAD, f"{MAX_OUTPUT} random bytes at a time")
    memory = Memory(length)
    rv = connection.invoke(session, grant, call.name, memory.address, length)
    return pack_error(rv) if rv else pack_reply(call, memory.read())


# --- which call is answered how

OWN: Final[dict[str, Chapter]] = {
    "C_Initialize": c_initialize,
    "C_Finalize": c_finalize,
    "C_GetInfo": c_get_info,
    "C_GetSlotList": c_get_slot_list,
    "C_GetSlotInfo": c_get_slot_info,
    "C_GetTokenInfo": c_get_token_info,
    "C_GetMechanismList": c_get_mechanism_list,
    "C_GetMechanismInfo": c_get_mechanism_info,
    "C_OpenSession": c_open_session,
    "C_CloseSession": c_close_session,
    "C_CloseAllSessions": c_close_all_sessions,
    "C_GetSessionInfo": c_get_session_info,
    "C_Login": c_login,
    "C_Logout": c_logout,
    "C_DestroyObject": c_destroy_object,
    "C_GetObjectSize": c_get_object_size,
    "C_GetAttributeValue": c_get_attribute_value,
    "C_FindObjectsInit": c_find_objects_init,
    "C_FindObjects": c_find_objects,
    "C_GenerateRandom": c_generate_random,
    "C_WaitForSlotEvent": c_wait_for_slot_event,
    **dict.fromkeys(("C_InitToken", "C_InitPIN", "C_SetPIN"), not_forwarded),
}

ANSWERS: Final[dict[int, Chapter]] = {id_: OWN.get(call.name, forward) for id_, call in BY_ID.items()}


def _fitting(values: list[int], room: int) -> list[int] | Needed:
    return values if room and len(values) <= room else Needed(len(values))


def _padded(text: str, length: int) -> bytes:
    return text.encode("ascii", "replace")[:length].ljust(length)


def _hardware(slot: Slot) -> int:
    return int(slot.description.generation.removeprefix("CEX") or 0)
