"""One connection's handles. Numbers are never used twice, and mean nothing on any other connection.

Sessions and objects stand in maps from our number to the module's; an object is good only in sessions of the HSM
through which it was found or made.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from keyvisor_firmware.broker.control_points import UNCONTROLLED, Control
from keyvisor_firmware.broker.errors import Failed
from keyvisor_firmware.broker.hot.board import Board, Ticket
from keyvisor_firmware.broker.hot.memos import Memos
from keyvisor_firmware.broker.key_store import KeyStore
from keyvisor_firmware.broker.limits import DEFAULTS, Limits
from keyvisor_firmware.broker.slots import Grant, Slot
from keyvisor_hsm.cryptoki import CKR


@dataclass(slots=True, eq=False)
class Session:
    """A session of the application. Its session in the module is opened at the first call that needs one.

    `keys` is that session's store, `ticket.real` its handle there. When an HSM that was bound is associated, the store
    changes and the next call opens a new one. `ticket` is what the hot loop sees of the session too, `grant` the grant
    under which it may, `memos` what it need not ask about again. `control` is what the last call was let through under:
    an operation does not outlive the policy that it was begun under.
    """

    handle: int
    slot: Slot
    flags: int
    binding: int
    ticket: Ticket
    keys: KeyStore | None = None
    grant: Grant | None = None
    control: Control = UNCONTROLLED
    memos: Memos = field(default_factory=Memos)


@dataclass(slots=True, eq=False)
class ObjectHandle:
    """An object as one connection names it, under one binding. `private` is None until somebody had to know.

    `works_on_data`: the guard has decided so, once and for all.
    """

    handle: int
    real: int
    slot: Slot
    keys: KeyStore
    binding: int
    private: bool | None = None
    works_on_data: bool = False


@dataclass(slots=True)
class Handles:
    """The maps of one connection."""

    limits: Limits = DEFAULTS
    board: Board = field(init=False)
    sessions: dict[int, Session] = field(default_factory=dict)
    objects: dict[int, ObjectHandle] = field(default_factory=dict)
    _numbers: dict[tuple[int, int], ObjectHandle] = field(default_factory=dict)
    _last: int = 0

    def __post_init__(self) -> None:
        self.board = Board(self.limits)

    def add_session(self, slot: Slot, flags: int, binding: int) -> Session:
        """A new session. Raises Failed past the limit."""
        if len(self.sessions) >= self.limits.sessions:
            raise Failed(CKR.SESSION_COUNT, f"{self.limits.sessions} sessions are open; close one")
        handle = self._next()
        session = self.sessions[handle] = Session(handle, slot, flags, binding, Ticket(handle))
        self.board.add(session.ticket)
        slot.sessions.add(session)
        return session

    def session(self, handle: int) -> Session:
        """The session with that number. Raises Failed."""
        try:
            return self.sessions[handle]
        except KeyError:
            raise Failed(CKR.SESSION_HANDLE_INVALID, "this connection has no such session") from None

    def remove_session(self, session: Session) -> None:
        """Forget a session, if nobody has yet."""
        if self.sessions.pop(session.handle, None) is not None:
            self.board.remove(session.ticket)
        session.slot.sessions.discard(session)

    def on_slot(self, slot: Slot) -> list[Session]:
        """The sessions on one HSM."""
        return [session for session in self.sessions.values() if session.slot is slot]

    def name_object(self, slot: Slot, grant: Grant, real: int, private: bool | None = None) -> ObjectHandle:
        """The handle of an object of the module: the one it has, or a new one. Raises Failed past the limit."""
        known = self.known(slot, real)
        if known is not None and known.keys is grant.keys and known.binding == grant.binding:
            return known
        if len(self.objects) >= self.limits.objects:
            raise Failed(
                CKR.HOST_MEMORY, f"{self.limits.objects} object handles are in use; end the connection"
            )
        named = ObjectHandle(self._next(), real, slot, grant.keys, grant.binding, private)
        self.objects[named.handle] = named
        self._numbers[slot.id, real] = named
        return named

    def known(self, slot: Slot, real: int) -> ObjectHandle | None:
        """The handle that an object of the module has, if any."""
        return self._numbers.get((slot.id, real))

    def object(self, handle: int, slot: Slot, grant: Grant, rv: CKR) -> ObjectHandle:
        """The object with that number, if a session on `slot` may use it. Raises Failed with `rv`."""
        found = self.objects.get(handle)
        if found is None or found.slot is not slot or found.keys is not grant.keys:
            raise Failed(rv, "this session knows no such object")
        if (
            found.binding != grant.binding
        ):  # the same keys again, and what was known of them is being cleared up
            raise Failed(rv, "this session knows no such object")
        return found

    def remove_object(self, named: ObjectHandle) -> None:
        """Forget an object."""
        self.board.change()
        self.objects.pop(named.handle, None)
        if self.known(named.slot, named.real) is named:
            del self._numbers[named.slot.id, named.real]

    def objects_on(self, slot: Slot) -> list[ObjectHandle]:
        """The objects known on one HSM."""
        return [named for named in self.objects.values() if named.slot is slot]

    def _next(self) -> int:
        self._last += 1
        return self._last
