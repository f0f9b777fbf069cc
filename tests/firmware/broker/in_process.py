"""An HSM and its connections without a gate's process: a test writes the state page itself and sees every call of the module.

With the compiled hot loop the module's functions are callbacks, which have an address, and each request is first
the loop's, as in a gate.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from keyvisor_firmware.broker.calls import BY_ID
from keyvisor_firmware.broker.codec import pack_error, read_id, read_request, request_prefix
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.control_points import UNCONTROLLED, Control
from keyvisor_firmware.broker.errors import Failed, Refused
from keyvisor_firmware.broker.hot.loop import HotLoop, Outcome
from keyvisor_firmware.broker.hot.memos import remember
from keyvisor_firmware.broker.key_store import KeyStore, function_addresses
from keyvisor_firmware.broker.limits import DEFAULTS, Limits
from keyvisor_firmware.broker.mechanism_parameters import Encoding
from keyvisor_firmware.broker.serve import perform
from keyvisor_firmware.broker.slots import Description, Grant, Slot
from keyvisor_firmware.broker.state_page import HsmState, word
from keyvisor_hsm.cryptoki import FUNCTIONS, FUNCTIONS_3_0
from keyvisor_hsm.partitions import Partition

from .encoder import CallFailed, body, read_reply

SLOT_ID = 0x30011


class Calls(Mapping[str, Callable[..., int]]):
    """The module's functions, each of whose calls is noted; `after` is done inside a call, before it returns."""

    def __init__(self, functions: Mapping[str, Callable[..., int]]) -> None:
        self._functions = functions
        self.made: list[str] = []
        self.after: dict[str, Callable[[], None]] = {}

    def __getitem__(self, name: str) -> Callable[..., int]:
        function = self._functions[name]

        def noted(*arguments: int) -> int:
            self.made.append(name)
            rv = function(*arguments)
            if name in self.after:
                self.after[name]()
            return rv

        return noted

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)


_ARITY: Final = dict(FUNCTIONS + FUNCTIONS_3_0)
_PROTOTYPES: Final = {
    count: ctypes.CFUNCTYPE(ctypes.c_ulong, *[ctypes.c_ulong] * count) for count in set(_ARITY.values())
}


class Native(Mapping[str, Callable[..., int]]):
    """Functions as a module's are: each has an address at which C can call it."""

    def __init__(self, functions: Mapping[str, Callable[..., int]]) -> None:
        self._functions = functions
        self._made: dict[str, Callable[..., int]] = {}

    def __getitem__(self, name: str) -> Callable[..., int]:
        if name not in self._made:
            self._made[name] = _PROTOTYPES[_ARITY[name]](self._functions[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)


class NoModule:
    """Answers every call with CKR_OK and does nothing: for tests of what comes before and after.

    `directory` is where PINs are kept; without one there are none.
    """

    slot = 1

    def __init__(self, directory: Path = Path("/nonexistent")) -> None:
        self.module = self
        self.directory = directory
        self.call: Mapping[str, Callable[..., int]] = AnyFunction()

    def require(self, name: str, *arguments: int) -> None:
        """Every call goes well."""
        self.call[name](*arguments)

    def secret_for(self, purpose: bytes) -> bytes:
        """Nothing is secret here."""
        return purpose.ljust(32)

    def authenticate(self, session: int) -> None:
        """Every login is confirmed."""

    def close(self) -> None:
        """There is nothing to close."""


class AnyFunction(dict[str, Callable[..., int]]):
    """Every name is a function that answers CKR_OK. Sessions have a number, or the hot loop would take them for closed."""

    def __missing__(self, name: str) -> Callable[..., int]:
        return _open_session if name == "C_OpenSession" else lambda *_: 0

    def get(self, name: str, default: Any = None) -> Callable[..., int]:
        return self[name]


def _open_session(_slot: int, _flags: int, _application: int, _notify: int, session: int) -> int:
    ctypes.c_ulong.from_address(session).value = 77
    return 0


def recording(directory: Path = Path("/nonexistent")) -> KeyStore:
    """A store without a module: every function is there, answers CKR_OK, and is noted in `store.call.made`."""
    store = KeyStore(NoModule(directory))  # type: ignore[arg-type]  # stands in for a partition
    store.call = Calls(AnyFunction())
    return store


def store_of(partition: Partition) -> KeyStore:
    """A store whose calls are noted in `store.call.made`."""
    store = KeyStore(partition)
    store.call = Calls(partition.module.call)
    return store


@dataclass
class Bench:
    """One HSM of a guest, and the applications that use it. `compiled`: the hot loop that they go through first."""

    store: KeyStore
    mode: str = "ep11"
    compiled: HotLoop | None = None
    words: memoryview = field(default_factory=lambda: memoryview(bytearray(64)).cast("Q"))
    refused: list[tuple[str, Refused]] = field(default_factory=list)
    epoch: int = 0
    binding: int = 0

    def __post_init__(self) -> None:
        self.use(self.store)
        self.slot = self.add_slot(SLOT_ID, 0)

    def use(self, store: KeyStore) -> None:
        """What is granted from now on leads to this store."""
        self.store = store
        self._functions = store.call
        if self.compiled is not None:
            store.call = Native(self._functions)
            store.functions = function_addresses(store.call)

    def add_slot(self, id_: int, index: int) -> Slot:
        """Another HSM of the guest, which leads to the same partition."""
        about = Description("03.0011", self.mode, "CEX8", "93AADFK719460083", (8, 3))
        slot = Slot(id_, about, index, self.words)
        self.slots = {**getattr(self, "slots", {}), id_: slot}
        return slot

    @property
    def calls(self) -> Calls:
        """What was called in the module."""
        assert isinstance(self._functions, Calls)
        return self._functions

    def grant(
        self,
        state: HsmState,
        slot: Slot | None = None,
        *,
        binding: int | None = None,
        control: Control = UNCONTROLLED,
    ) -> None:
        """What the daemon and the gate do, in their order: the gate is ready, then the page shows it."""
        slot = slot or self.slot
        self.epoch += 1
        if state is HsmState.UNBOUND:
            self.words[slot.index] = word(self.epoch, state)
            slot.offer(None)
            return
        self.binding = binding or self.epoch
        grant = Grant(word(self.epoch, state), self.binding, self.store, control)
        slot.offer(grant)
        self.words[slot.index] = grant.word

    def control(self, control: Control) -> None:
        """Another policy decides: the HSM is held as before."""
        self.grant(HsmState.ASSOCIATED, binding=self.binding, control=control)

    def revoke(self) -> None:
        """What an unbind does first, before the gate knows: the page alone changes."""
        self.epoch += 1
        self.words[self.slot.index] = word(self.epoch, HsmState.UNBOUND)

    def connect(self, limits: Limits = DEFAULTS, encoding: Encoding = Encoding.UP_TO_0_25_5) -> Application:
        """An application."""
        connection = Connection("payments", self.slots, limits, self.compiled)
        return Application(self, connection, encoding)


@dataclass
class Application:
    """Makes calls as a connection's thread would. `by_loop`, `by_python`: who answered which calls, in their order."""

    bench: Bench
    connection: Connection
    encoding: Encoding = Encoding.UP_TO_0_25_5
    by_loop: list[str] = field(default_factory=list)
    by_python: list[str] = field(default_factory=list)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def exchange(self, content: bytes) -> bytes:
        """The body that answers a body."""
        reply = self._ask_loop(content)
        return self._ask_python(content) if reply is None else reply

    def _ask_loop(self, content: bytes) -> bytes | None:
        """What reading.HotFrames does. One thread at a time has the turn, as there; whoever has it not asks Python."""
        if self.connection.hot is None or not self._turn.acquire(blocking=False):
            return None
        try:
            outcome, reply = self.connection.hot.answer(content)
        finally:
            self._turn.release()
        if outcome is Outcome.COLD:
            return None
        call = BY_ID[read_id(content)]
        self.by_loop.append(call.name)
        if outcome is Outcome.NOTIFY:
            with self.connection.lock:
                self.connection.notify()
        elif outcome is Outcome.CHANGED:
            at = len(request_prefix(call))
            refused = self.connection.confirm_left(int.from_bytes(content[at : at + 8], "big"))
            if refused is not None:
                self._note(call.name, refused)
                return pack_error(refused.rv)
        else:
            assert outcome is Outcome.ANSWERED
        return reply

    def _ask_python(self, content: bytes) -> bytes:
        """What serve.Service does."""
        try:
            call, values = read_request(content, self.encoding, self.connection.limits)
        except Failed as failed:
            return pack_error(failed.rv)
        self.by_python.append(call.name)
        changes = self.connection.handles.board.changes
        reply = perform(self.connection, call, values, self._note)
        remember(self.connection, call, values, content, self.encoding, reply, changes)
        return reply

    def _note(self, call: str, refused: Refused) -> None:
        self.bench.refused.append((call, refused))

    def call(self, name: str, *values: Any) -> Any:
        """Make a call; what its reply says. Raises CallFailed."""
        return read_reply(name, self.exchange(body(name, *values)))

    def rv(self, name: str, *values: Any) -> int:
        """Make a call; its CK_RV."""
        try:
            self.call(name, *values)
        except CallFailed as failed:
            return failed.rv
        return 0

    def session(self, *, login: bool = False, slot: int = SLOT_ID, flags: int = 6) -> int:
        """Open a session."""
        handle = self.call("C_OpenSession", slot, flags)
        if login:
            self.call("C_Login", handle, 1, None)
        assert isinstance(handle, int)
        return handle
