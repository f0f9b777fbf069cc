"""One connection of an application: its sessions, its objects, its logins, and the calls it makes of the module.

Every call of the module goes through `Connection.enter`, which is steps 2 to 4 of the filter, and leaves through
`Connection.invoke`, which withholds an answer whose grant was revoked meanwhile. Knows no bytes of the protocol.

A connection is a monitor: whoever works on it holds its lock, and lets it go only while it is inside the module or
waits. One call at a time is inside on behalf of a session; a session is never closed while one is.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from keyvisor_firmware.broker.calls import Access, Call
from keyvisor_firmware.broker.control_points import require_allowed
from keyvisor_firmware.broker.errors import Failed, Refused
from keyvisor_firmware.broker.handles import Handles, ObjectHandle, Session
from keyvisor_firmware.broker.hot.loop import HotLoop, Lock
from keyvisor_firmware.broker.key_store import KeyStore
from keyvisor_firmware.broker.limits import DEFAULTS, Limits
from keyvisor_firmware.broker.pins import Who
from keyvisor_firmware.broker.slot_events import SlotEvents
from keyvisor_firmware.broker.slots import Grant, Slot
from keyvisor_hsm.cryptoki import CKA, CKR
from keyvisor_hsm.cryptoki.native import Query, Ulongs


class Connection:
    """The state of one connection, and its lock. Every method wants the lock held, by a thread that answers or clears up."""

    def __init__(
        self,
        guest: str,
        slots: dict[int, Slot],
        limits: Limits = DEFAULTS,
        compiled: HotLoop | None = None,
    ) -> None:
        self.guest = guest
        self.slots = slots
        self.limits = limits
        self.handles = Handles(limits)
        self.hot = None if compiled is None else compiled.open(self.handles.board)
        self.lock: Lock = threading.Lock() if self.hot is None else self.hot.monitor()
        self.events = SlotEvents(slots)
        self.ended = False
        self._changed = threading.Condition(self.lock)  # type: ignore[arg-type]  # it asks for these methods only
        self._logins: dict[
            int, tuple[int, Who]
        ] = {}  # slot id -> the binding that the login belongs to, and whose

    # --- the way in and out of the module

    def slot(self, slot_id: int) -> Slot:
        """An HSM of this guest. Raises Failed for any other."""
        slot = self.slots.get(slot_id)
        if slot is None:
            raise Failed(CKR.SLOT_ID_INVALID, "no such HSM is attached to this guest")
        return slot

    def enter(self, call: Call, values: Sequence[Any]) -> tuple[Session, Grant]:
        """Let `call` on a session, the first of its arguments, through to the module.

        Raises Refused; the session is then as it was.
        """
        session = self.handles.session(values[0])
        grant = self._admit(call, session)
        if session.keys is not grant.keys or (session.ticket.began and session.control != grant.control):
            self._open_real(session, grant.keys)
        session.control = grant.control
        # Not under a call of the loop: it looks at what it was let through under once more when it comes back.
        if session.ticket.granted != grant.word and not session.ticket.inside:
            self._let_through(session, grant)
        require_allowed(self, session, grant, call, values)
        return session, grant

    def _admit(self, call: Call, session: Session) -> Grant:
        grant = session.slot.grant
        if grant is None or grant.binding != session.binding or not session.slot.present():
            apqn = session.slot.description.apqn
            self.close_session(session)
            kind = Refused if call.access is Access.SENSITIVE else Failed
            raise kind(
                CKR.SESSION_HANDLE_INVALID, f"HSM {apqn} was unbound after the session was opened", apqn
            )
        return session.slot.admit(call)

    def _open_real(self, session: Session, keys: KeyStore) -> None:
        self._close_real(session)
        handle = Ulongs(1)
        rv = keys.call["C_OpenSession"](keys.slot, session.flags, 0, 0, handle.address)
        if rv:
            raise Failed(CKR.DEVICE_ERROR, f"the HSM opens no session ({rv:#x})")
        session.keys = keys
        session.ticket.open(handle[0])

    def _let_through(self, session: Session, grant: Grant) -> None:
        """From now on the hot loop may do for the session what the filter lets through under this grant."""
        slot = session.slot
        if session.grant is not None and session.grant.control != grant.control:
            self.handles.board.change()  # what was remembered was decided by another policy
        session.grant = grant
        session.ticket.grant(
            grant.word, slot.word_address, slot.permitted_calls(grant), grant.keys.functions.buffer_info()[0]
        )

    def invoke(self, session: Session, grant: Grant, name: str, *arguments: int) -> int:
        """Call the module on the session's behalf; its CK_RV. Raises Refused if the HSM was taken away meanwhile.

        The lock is free while the module works, so that other calls of the connection go on.
        """
        function = grant.keys.call.get(name)
        if function is None:
            raise Failed(CKR.FUNCTION_NOT_SUPPORTED, f"the module has no {name}")
        ticket = session.ticket
        while ticket.inside:
            self.wait()
        if session.keys is not grant.keys:
            raise Failed(CKR.SESSION_HANDLE_INVALID, "the session was closed meanwhile")
        ticket.inside = True
        self.lock.release()
        try:
            rv = function(ticket.real, *arguments)
        finally:
            self.lock.acquire()
            ticket.inside = False
            if self.handles.board.waiting:
                self._changed.notify_all()
        session.slot.confirm(grant)
        return rv

    def confirm_left(self, handle: int) -> Refused | None:
        """A call that the hot loop made for a session came back to another word of the state page: why its answer may not leave.

        The session is still there, since the loop left it as one that has a call inside. The lock is taken here.
        """
        with self.lock:
            session = self.handles.session(handle)
            try:
                if session.grant is not None:
                    session.slot.confirm(session.grant)
            except Refused as refused:
                return refused
            finally:
                session.ticket.inside = False
                self.notify()
        return None

    def wait(self, seconds: float | None = None) -> None:
        """Let the lock go until something changes on this connection, for `seconds` at most."""
        board = self.handles.board
        board.waiting += 1
        try:
            self._changed.wait(seconds)
        finally:
            board.waiting -= 1

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Let the lock go for something slow. Afterwards nothing that was looked at before is sure any more."""
        self.lock.release()
        try:
            yield
        finally:
            self.lock.acquire()

    def notify(self) -> None:
        """Something has changed: whoever waits looks again."""
        self._changed.notify_all()

    def is_inside(self, handle: int) -> bool:
        """Whether a call is inside the module on behalf of the session with that number."""
        session = self.handles.sessions.get(handle)
        return session is not None and session.ticket.inside

    # --- logins: the application's, not the token's

    def logged_in(self, slot: Slot) -> bool:
        """Whether this connection is logged in to the HSM as the user, who alone sees private objects."""
        return self.who(slot) is Who.USER

    def who(self, slot: Slot) -> Who | None:
        """Who is logged in to the HSM on this connection, under its present binding."""
        grant, login = slot.grant, self._logins.get(slot.id)
        return login[1] if grant is not None and login is not None and login[0] == grant.binding else None

    def login(self, slot: Slot, binding: int, who: Who) -> None:
        """Note a login."""
        self.handles.board.change()
        self._logins[slot.id] = binding, who

    def logout(self, slot: Slot) -> None:
        """End the login: private objects lose their handles, private session objects end, begun operations end."""
        self.handles.board.change()
        self._logins.pop(slot.id, None)
        for named in self.handles.objects_on(slot):
            if self.is_private(named):
                if named.keys.owners.pop(named.real, None) is not None:
                    self._destroy(named)
                self.handles.remove_object(named)
        for session in self.handles.on_slot(slot):
            if session.ticket.began:
                self._close_real(session)
            elif session.keys is not None:  # a search goes on naming what it found before
                session.keys.call["C_FindObjectsFinal"](session.ticket.real)

    # --- objects

    def object(self, session: Session, grant: Grant, handle: int, rv: CKR) -> ObjectHandle:
        """An object that the session may use now. Raises Failed with `rv` for any other."""
        named = self.handles.object(handle, session.slot, grant, rv)
        if not self.logged_in(session.slot) and self.is_private(named):
            raise Failed(rv, "the object is private and nobody is logged in")
        return named

    def is_private(self, named: ObjectHandle) -> bool:
        """CKA_PRIVATE, asked of the module once. An object that does not tell counts as private."""
        if named.private is None:
            session = self._session_in(named.slot, named.keys)
            if session is None:
                return True
            named.private = self._flag(session, named.real, CKA.PRIVATE) is not False
        return named.private

    def adopt(self, session: Session, grant: Grant, reals: list[int]) -> list[ObjectHandle]:
        """Take in the objects that a call just made. Raises Failed if one is private and nobody is logged in."""
        flags = [
            (self._flag(session, real, CKA.TOKEN), self._flag(session, real, CKA.PRIVATE)) for real in reals
        ]
        if any(private is not False for _, private in flags) and not self.logged_in(session.slot):
            raise Failed(CKR.USER_NOT_LOGGED_IN, "a private object is made, and nobody is logged in")
        for real, (token, _) in zip(reals, flags, strict=True):
            if token is True:
                grant.keys.room.kept()
            else:
                grant.keys.owners[real] = (self, session.slot.id, grant.binding)
        return [
            self.handles.name_object(session.slot, grant, real, private is not False)
            for real, (_, private) in zip(reals, flags, strict=True)
        ]

    def destroy(self, session: Session, grant: Grant, reals: list[int]) -> None:
        """Undo the making of objects that nobody has been told of."""
        for real in reals:
            grant.keys.call["C_DestroyObject"](session.ticket.real, real)
            grant.keys.owners.pop(real, None)

    def forget(self, named: ObjectHandle) -> None:
        """The object is gone."""
        named.keys.owners.pop(named.real, None)
        named.keys.token_objects.discard(named.real)
        self.handles.remove_object(named)

    def owns(self, session: Session, keys: KeyStore, real: int) -> bool:
        """Whether an object of the module is a token object, or a session object of this connection on this HSM.

        An object that nobody has claimed yet is asked: another connection may be about to claim it.
        """
        owner = keys.owners.get(real)
        if owner is not None:
            return owner == (self, session.slot.id, session.binding)
        if real not in keys.token_objects:
            if self._flag(session, real, CKA.TOKEN) is not True:
                return False
            keys.token_objects.add(real)
        return True

    def _flag(self, session: Session, real: int, type_: CKA) -> bool | None:
        query = Query([(type_, 1)])
        assert session.keys is not None  # noqa: S101 - callers have entered the module
        if session.keys.call["C_GetAttributeValue"](session.ticket.real, real, query.address, query.count):
            return None
        _, value = query.answer(0)
        return None if value is None else value != b"\0"

    def _session_in(self, slot: Slot, keys: KeyStore) -> Session | None:
        """A session of this connection that is open in that store."""
        return next((session for session in self.handles.on_slot(slot) if session.keys is keys), None)

    def _destroy(self, named: ObjectHandle) -> None:
        session = self._session_in(named.slot, named.keys)
        if session is not None:
            self._destroy_in(session, named)

    def _destroy_in(self, session: Session, named: ObjectHandle) -> None:
        named.keys.call["C_DestroyObject"](session.ticket.real, named.real)
        self.forget(named)

    # --- endings

    def close_session(self, session: Session) -> None:
        """Close a session. The last one on an HSM ends the login there."""
        self._close_real(session)
        self.handles.remove_session(session)
        if not self.handles.on_slot(session.slot):
            self.handles.board.change()
            self._logins.pop(session.slot.id, None)
            for named in self.handles.objects_on(session.slot):
                self.handles.remove_object(named)

    def drop_slot(self, slot: Slot) -> None:
        """Close this connection's sessions on an HSM."""
        for session in self.handles.on_slot(slot):
            self.close_session(session)

    def leave_store(self, slot: Slot, left: Grant) -> None:
        """Leave the store of a grant that is no good any more. A session stays, if its HSM is still bound as it was.

        The same binding may have gone on to another store, and another binding to the same one: what they hold stays.
        """
        now = slot.grant
        for session in self.handles.on_slot(slot):
            if now is None or now.binding != session.binding:
                self.close_session(session)
            elif session.keys is left.keys and session.keys is not now.keys:
                self._close_real(session)
        for named in self.handles.objects_on(slot):
            if now is None or named.binding != now.binding or named.keys is not now.keys:
                self.handles.remove_object(named)

    def begin(self) -> None:
        """The application begins: HSMs that are there now are no news to it."""
        self.ended = False
        self.events.forget()

    def close(self) -> None:
        """The application is gone, or has finished: its sessions end, and whoever waits on its behalf."""
        self.ended = True
        self.notify()
        for session in list(self.handles.sessions.values()):
            self.close_session(session)

    def _close_real(self, session: Session) -> None:
        while session.ticket.inside:
            self.wait()
        keys, real = session.keys, session.ticket.real
        if keys is None:
            return
        session.keys = session.grant = None
        session.ticket.close()
        session.memos.forget()
        keys.call["C_CloseSession"](real)
        self._forget_session_objects(session.slot, keys)

    def _forget_session_objects(self, slot: Slot, keys: KeyStore) -> None:
        """The module destroyed the closed session's objects; which ones, only it knows."""
        mine = [real for real, owner in list(keys.owners.items()) if owner[:2] == (self, slot.id)]
        rest = self._session_in(slot, keys)
        for real in mine:
            if rest is None or self._flag(rest, real, CKA.TOKEN) is None:
                keys.owners.pop(real, None)
                if (named := self.handles.known(slot, real)) is not None:
                    self.handles.remove_object(named)
