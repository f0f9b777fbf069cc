"""What two guests, their connections and three HSMs should be like: a model of the broker that knows no handles' meaning
but its own, no module and no processes.

Every method that stands for a call tells which CK_RVs are right, and `0` alone means that the call must be done. What a
call did is noted afterwards, by another method, so that the model never learns from an answer that it did not expect.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from keyvisor_hsm.cards import Apqn
from keyvisor_hsm.cryptoki import CKR

Rvs = frozenset[int]
DONE: Rvs = frozenset((CKR.OK,))
NO_SESSION: Rvs = frozenset((CKR.SESSION_HANDLE_INVALID,))
NOT_ASSOCIATED: Rvs = frozenset((CKR.USER_NOT_LOGGED_IN,))
ACTIVE: Rvs = frozenset((CKR.OPERATION_ACTIVE,))
NO_OBJECT: Rvs = frozenset(
    (CKR.OBJECT_HANDLE_INVALID, CKR.KEY_HANDLE_INVALID, CKR.WRAPPING_KEY_HANDLE_INVALID)
)

Place = tuple[str, bytes]  # a master key's name and a secret: a key partition


@dataclass(eq=False)
class Key:
    """An object. A session object has the session that it ends with; guests tell who made it and who destroyed it."""

    label: bytes
    private: bool
    session: Session | None
    maker: str
    gone: str | None = None
    wraps: bool = False  # works on other keys, and so not on data


@dataclass(eq=False)
class Binding:
    """One stay of an HSM with a guest, from bind to unbind."""

    number: int
    guest: str
    place: Place | None = None


@dataclass(eq=False)
class Session:
    """A session, and whether an operation is under way in it."""

    hsm: Apqn
    binding: Binding
    active: bool = False


@dataclass(eq=False)
class Application:
    """One connection."""

    guest: str
    told: dict[Apqn, int]  # per HSM the number of the binding that it was told of last
    sessions: dict[int, Session] = field(default_factory=dict)
    names: dict[int, tuple[Key, Session]] = field(
        default_factory=dict
    )  # the session stands for HSM and binding
    logins: set[Binding] = field(default_factory=set)
    last: int = 0

    def given(self, handle: int) -> None:
        """A new number: greater than all before it."""
        assert handle > self.last, f"the number {handle} was used before"
        self.last = handle


class Shadow:
    """The whole machine."""

    def __init__(self, master_keys: dict[Apqn, str]) -> None:
        self.master_keys = master_keys
        self.bound: dict[Apqn, Binding] = {}
        self.kept: dict[Place, dict[bytes, Key]] = {}
        self.bindings = itertools.count(1)

    # --- the host

    def bind(self, guest: str, hsm: Apqn) -> None:
        self.bound[hsm] = Binding(next(self.bindings), guest)

    def associate(self, hsm: Apqn, secret: bytes) -> None:
        self.bound[hsm].place = self.master_keys[hsm], secret

    def unbind(self, hsm: Apqn) -> None:
        del self.bound[hsm]

    # --- applications

    def events(self, guest: str) -> dict[Apqn, int]:
        """Per HSM the number of the guest's binding, 0 where it has none."""
        return {hsm: self._binding(guest, hsm) for hsm in self.master_keys}

    def _binding(self, guest: str, hsm: Apqn) -> int:
        binding = self.bound.get(hsm)
        return binding.number if binding is not None and binding.guest == guest else 0

    def connect(self, guest: str) -> Application:
        return Application(guest, self.events(guest))

    def event(self, application: Application) -> Apqn | None:
        """The HSM with an event, which is told thereby."""
        now = self.events(application.guest)
        changed = next((hsm for hsm in sorted(now) if application.told[hsm] != now[hsm]), None)
        if changed is not None:
            application.told[changed] = now[changed]
        return changed

    # --- sessions

    def open_session(self, guest: str, hsm: Apqn) -> Rvs:
        return DONE if self._binding(guest, hsm) else frozenset((CKR.TOKEN_NOT_PRESENT,))

    def live(self, application: Application, handle: int) -> Session | None:
        """The session, if it can still be used."""
        session = application.sessions.get(handle)
        return session if session and self.bound.get(session.hsm) is session.binding else None

    def enter(self, application: Application, handle: int, *, sensitive: bool = True) -> Rvs:
        session = self.live(application, handle)
        if session is None:
            return NO_SESSION
        return NOT_ASSOCIATED if sensitive and session.binding.place is None else DONE

    def is_active(self, application: Application, handle: int) -> bool:
        """Whether an operation is under way in a session that can be used."""
        session = self.live(application, handle)
        return session is not None and session.active

    def close_session(self, application: Application, handle: int) -> None:
        session = application.sessions.pop(handle)
        self._end_objects(application, session)
        if not any(other.binding is session.binding for other in application.sessions.values()):
            application.logins.discard(session.binding)
            self._unname(application, lambda _key, through: through.binding is session.binding)

    # --- logins

    def logged_in(self, application: Application, session: Session) -> bool:
        return session.binding in application.logins

    def logout(self, application: Application, session: Session) -> None:
        """Private objects lose their numbers or end; what was begun ends, and with it its session's objects."""
        application.logins.discard(session.binding)
        for key, through in list(application.names.values()):
            if through.binding is session.binding and key.private and key.session is not None:
                key.gone = application.guest
        self._unname(application, lambda key, through: through.binding is session.binding and key.private)
        for other in application.sessions.values():
            if other.binding is session.binding and other.active:
                other.active = False
                self._end_objects(application, other)

    # --- objects

    def use(self, application: Application, handle: int, number: int) -> tuple[Rvs, Key | None]:
        """Whether the object with a number can be used in a session; either way, where another guest destroyed it."""
        if (rvs := self.enter(application, handle)) != DONE:
            return rvs, None
        session = application.sessions[handle]
        key, through = application.names.get(number, (None, None))
        if key is None or through is None or through.binding is not session.binding:
            return NO_OBJECT, None
        if (key.private and not self.logged_in(application, session)) or key.gone == application.guest:
            return NO_OBJECT, None
        return (
            DONE if key.gone is None else DONE | NO_OBJECT | {CKR.FUNCTION_FAILED, CKR.GENERAL_ERROR}
        ), key

    def make(self, application: Application, handle: int, *, private: bool) -> Rvs:
        if (rvs := self.enter(application, handle)) != DONE:
            return rvs
        session = application.sessions[handle]
        return NOT_ASSOCIATED if private and not self.logged_in(application, session) else DONE

    def made(self, application: Application, handle: int, key: Key) -> None:
        if key.session is None:
            place = application.sessions[handle].binding.place
            assert place is not None
            self.kept.setdefault(place, {})[key.label] = key

    def destroyed(self, application: Application, key: Key) -> None:
        key.gone = application.guest

    def visible(self, application: Application, handle: int) -> tuple[dict[bytes, Key], dict[bytes, Key]]:
        """What a search in the session must find, and what it may find besides.

        Two guests with the same keys are two processes with one token, and SoftHSM takes its own change of a token for
        the last one: what the other process changed just before is seen later or not at all. So what another guest
        made or destroyed may or may not show; nothing else may.
        """
        session = application.sessions[handle]
        place = session.binding.place
        assert place is not None
        own = {
            key.label: key
            for key, through in application.names.values()
            if key.session is not None and key.gone is None and through.binding is session.binding
        }
        guest, see_all = application.guest, self.logged_in(application, session)
        kept = {label: key for label, key in self.kept.get(place, {}).items() if key.gone != guest}
        sure = {label: key for label, key in kept.items() if key.maker == guest and key.gone is None}
        shown = {label: key for label, key in {**kept, **own}.items() if see_all or not key.private}
        must = {label: key for label, key in shown.items() if label in sure or label in own}
        return must, {label: key for label, key in shown.items() if label not in must}

    def named(self, application: Application, handle: int, key: Key, number: int) -> None:
        """The broker calls `key` by `number`: by the one that it has, or by a new one."""
        session = application.sessions[handle]
        for known, (other, through) in application.names.items():
            if other is key and through.binding is session.binding:
                assert known == number, f"{key.label!r} was {known} and is {number}"
                return
        application.given(number)
        application.names[number] = key, session

    def lasting(self) -> list[list[Key]]:
        """Per partition the token objects that are there."""
        return [[key for key in kept.values() if key.gone is None] for kept in self.kept.values()]

    def _end_objects(self, application: Application, session: Session) -> None:
        for key, _ in application.names.values():
            if key.session is session:
                key.gone = application.guest
        self._unname(application, lambda key, _through: key.session is session)

    @staticmethod
    def _unname(application: Application, which: Callable[[Key, Session], bool]) -> None:
        application.names = {n: named for n, named in application.names.items() if not which(*named)}
