"""The chapter of objects, as far as more than forwarding is done: destroying, reading, finding."""

from __future__ import annotations

from typing import Any, Final

from keyvisor_firmware.broker.attributes import Wanted, within_limits
from keyvisor_firmware.broker.calls import Call
from keyvisor_firmware.broker.codec import pack_error, pack_reply
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.handles import Session
from keyvisor_firmware.broker.slots import Grant
from keyvisor_hsm.cryptoki import CKA, CKR
from keyvisor_hsm.cryptoki.native import Attribute, Found, Query, Template, Ulongs

_FALSE: Final = b"\0"


def c_destroy_object(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The handle goes with the object."""
    session, grant = connection.enter(call, values)
    named = connection.object(session, grant, values[1], CKR.OBJECT_HANDLE_INVALID)
    rv = connection.invoke(session, grant, call.name, named.real)
    if rv:
        return pack_error(rv)
    connection.forget(named)
    return pack_reply(call)


def c_get_object_size(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The reply is a number, not a handle."""
    session, grant = connection.enter(call, values)
    named = connection.object(session, grant, values[1], CKR.OBJECT_HANDLE_INVALID)
    size = Ulongs(1)
    rv = connection.invoke(session, grant, call.name, named.real, size.address)
    return pack_error(rv) if rv else pack_reply(call, size[0])


# CK_RVs of C_GetAttributeValue that leave attributes behind: they travel inside the reply (4.3).
_PARTIAL: Final = frozenset(
    (CKR.OK, CKR.ATTRIBUTE_SENSITIVE, CKR.ATTRIBUTE_TYPE_INVALID, CKR.BUFFER_TOO_SMALL)
)


def c_get_attribute_value(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """As many attributes as were asked, in the same order. A nested template that cannot travel is said not to be there."""
    session, grant = connection.enter(call, values)
    named = connection.object(session, grant, values[1], CKR.OBJECT_HANDLE_INVALID)
    wanted: tuple[Wanted, ...] = values[2]
    query = Query(within_limits([one for one in wanted if one[1] is not None], connection.limits))
    rv = int(CKR.OK)
    if query.count or not wanted:
        rv = connection.invoke(session, grant, call.name, named.real, query.address, query.count)
    if rv not in _PARTIAL:
        return pack_error(rv)
    found = iter(query.answers())
    answers = [Found(type_, None, None) if room is None else next(found) for type_, room in wanted]
    if rv == CKR.OK and query.count < len(wanted):
        rv = CKR.ATTRIBUTE_TYPE_INVALID
    return pack_reply(call, answers, rv)


def c_find_objects_init(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """Who is not logged in finds public objects only."""
    session, grant = connection.enter(call, values)
    attributes: tuple[Attribute, ...] = values[1]
    if not connection.logged_in(session.slot):
        attributes = (*attributes, Attribute(CKA.PRIVATE, _FALSE))
    template = Template(attributes)
    rv = connection.invoke(session, grant, call.name, template.address, template.count)
    return pack_error(rv) if rv else pack_reply(call)


def c_find_objects(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """Session objects of other connections and other HSMs are left out."""
    session, grant = connection.enter(call, values)
    room = min(values[1], connection.limits.found_objects)
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
        connection.handles.name_object(session.slot, grant, real).handle
        for real in reals
        if connection.owns(session, grant.keys, real)
    ]
