"""The same world twice, on either path, driven with the same bytes: whatever one does that the other does not is an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from keyvisor_firmware.broker.calls import BY_NAME
from keyvisor_firmware.broker.errors import ProtocolError
from keyvisor_firmware.broker.hot.loop import HotLoop
from keyvisor_firmware.broker.hot.tables import Shape, shape_of
from keyvisor_firmware.broker.limits import DEFAULTS, Limits
from keyvisor_firmware.broker.mechanism_parameters import Encoding
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki import CKA, CKM

from ..encoder import CallFailed, Mechanism, body, read_reply, sized
from ..in_process import SLOT_ID, Application, Bench
from .fake_module import FakeModule, fake_store


class Side:
    """An HSM of one guest, with a fake module, and two applications."""

    def __init__(self, path: HotLoop | None, directory: Path, mode: str, limits: Limits, encoding: Encoding):
        directory.mkdir(exist_ok=True)  # for its own PINs
        self.module = FakeModule()
        self.bench = Bench(fake_store(self.module, directory), mode, path)
        self.applications = [self.bench.connect(limits, encoding) for _ in range(2)]

    def exchange(self, which: int, content: bytes) -> bytes | str:
        """The answer, or what ends the connection."""
        try:
            return self.applications[which].exchange(content)
        except ProtocolError as error:
            return str(error)

    def state(self) -> Any:
        """What must be the same on both paths after every call."""
        return (
            self.module.seen,
            [(call, int(refused.rv), refused.reason) for call, refused in self.bench.refused],
            [self._sessions(application) for application in self.applications],
        )

    def _sessions(self, application: Application) -> Any:
        handles = application.connection.handles
        grant = self.bench.slot.grant
        live = [one for one in handles.sessions.values() if grant and one.binding == grant.binding]
        tickets = [one.ticket for one in live]
        assert not any(ticket.inside for ticket in tickets), "a session is left as one with a call inside"
        return (
            handles.board.changes,
            sorted(handles.objects),
            [(one.handle, one.ticket.real, one.ticket.began, one.ticket.heavy) for one in live],
        )


class Pair:
    """Both sides. `by_loop` and `by_python` are the calls that the compiled side answered one way and the other."""

    def __init__(
        self,
        path: HotLoop,
        directory: Path,
        *,
        mode: str = "ep11",
        limits: Limits = DEFAULTS,
        encoding: Encoding = Encoding.UP_TO_0_25_5,
    ) -> None:
        self.encoding = encoding
        self.directory = directory
        self.python, self.compiled = (
            Side(one, directory / name, mode, limits, encoding)
            for name, one in (("python", None), ("compiled", path))
        )
        self.sides = (self.python, self.compiled)

    @property
    def by_loop(self) -> list[str]:
        return self.compiled.applications[0].by_loop

    @property
    def by_python(self) -> list[str]:
        return self.compiled.applications[0].by_python

    def exchange(self, content: bytes, which: int = 0) -> bytes | str:
        """What both answer to a body."""
        expected, got = (side.exchange(which, content) for side in self.sides)
        assert got == expected, f"the answers to {content.hex()} differ"
        self.compare()
        return got

    def compare(self) -> None:
        """Both sides are as they should be, each like the other."""
        expected, got = (side.state() for side in self.sides)
        assert got == expected
        for side in self.sides:
            side.module.seen.clear()
            side.bench.refused.clear()

    def call(self, name: str, *values: Any, which: int = 0) -> Any:
        """Make a call; what its reply says, or its CK_RV, or what ends the connection."""
        reply = self.exchange(body(name, *values), which)
        if isinstance(reply, str):
            return reply
        try:
            return read_reply(name, reply)
        except CallFailed as failed:
            return failed

    def session(self, *, login: bool = True, which: int = 0) -> int:
        """A session."""
        handle = self.call("C_OpenSession", SLOT_ID, 6, which=which)
        if login:
            self.call("C_Login", handle, 1, None, which=which)
        assert isinstance(handle, int)
        return handle

    def made(self, session: int, *, private: bool = False, which: int = 0) -> int:
        """An object. The fake module fails now and then."""
        template = [(CKA.PRIVATE, private), (CKA.LABEL, b"label")]
        while not isinstance(number := self.call("C_CreateObject", session, template, which=which), int):
            pass
        return number

    def hot(self, content: bytes) -> bytes:
        """Say it until the hot loop answers it, which is soon; the loop's answer."""
        for _ in range(12):
            before = len(self.by_loop)
            reply = self.exchange(content)
            if len(self.by_loop) > before:
                assert isinstance(reply, bytes)
                return reply
        raise AssertionError(f"the hot loop does not answer {content.hex()}")

    def request(self, name: str, session: int, key: int = 0) -> bytes:
        """The body of a call that the hot loop may answer."""
        return body(name, session, *self.arguments(name, key))

    def arguments(self, name: str, key: int) -> tuple[Any, ...]:
        """What stands behind the session in it."""
        match shape_of(BY_NAME[name]):
            case Shape.IN_OUT:
                return bytes(16), 64
            case Shape.OUT | Shape.RANDOM:
                return (64,)
            case Shape.IN:
                return (bytes(16),)
            case Shape.IN_IN:
                return bytes(16), bytes(8)
        match name:
            case "C_GetSessionInfo":
                return ()
            case "C_GetAttributeValue":
                return key, [(CKA.LABEL, 64), (CKA.CLASS, 8)]
            case "C_DigestInit":
                return (self.mechanism(CKM.SHA256),)
            case _:
                return self.mechanism(CKM.AES_CBC, sized(bytes(16))), key

    def mechanism(self, type_: int, parameter: bytes | None = None) -> Mechanism:
        """As this pair's clients write it."""
        if self.encoding is not Encoding.FROM_0_25_6:
            return Mechanism(type_, parameter)
        return Mechanism(type_, bare=True) if parameter is None else Mechanism(type_, b"\1" + parameter)

    # --- the host

    def grant(self, state: HsmState) -> None:
        for side in self.sides:
            side.bench.grant(state)

    def associate_bound(self) -> None:
        """An HSM that is bound is associated: the same binding, another word."""
        for side in self.sides:
            grant = side.bench.slot.grant
            side.bench.grant(HsmState.ASSOCIATED, binding=None if grant is None else grant.binding)

    def other_keys(self) -> None:
        """What the HSM is associated with from now on is another secret."""
        for side, name in zip(self.sides, ("python", "compiled"), strict=True):
            side.bench.use(fake_store(FakeModule(), self.directory / name))

    def revoke(self) -> None:
        for side in self.sides:
            side.bench.revoke()

    def inside(self, name: str, change: Callable[[Bench], None] | None) -> None:
        """From now on do `change` inside of each call of that function; None: do nothing any more."""
        for side in self.sides:
            if change is None:
                side.bench.calls.after.pop(name, None)
            else:
                side.bench.calls.after[name] = lambda bench=side.bench: change(bench)
