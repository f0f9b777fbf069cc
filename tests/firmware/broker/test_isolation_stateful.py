"""Two guests, two connections each and three HSMs in random sequences, at the doors of real gates, beside a shadow model.

Each answer must be one that the model allows, each search must find exactly what the model shows, no number is given
twice on a connection. A failing run tells its seed and every step that led there.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pytest

from keyvisor_hsm.cards import Apqn, Mode
from keyvisor_hsm.cryptoki import CKA, CKM, CKR

from . import shadow
from .conftest import ACCELERATOR, CRYPTO, OTHER_SECRET, SECRET, SPARE, Guest, Machine, slot_of
from .encoder import CallFailed, Mechanism
from .peer import Peer
from .shadow import DONE, Key, Rvs, Shadow

STEPS: Final = 1500
SEEDS: Final = tuple(int(seed) for seed in os.environ.get("KEYVISOR_TEST_SEEDS", "1 2 3 4").split())
OTHER: Final = Apqn(0x03, 0x12)
MASTER_KEYS: Final = {CRYPTO: "red", SPARE: "red", OTHER: "blue"}
SECRETS: Final = (SECRET, OTHER_SECRET)
MOST_OBJECTS: Final = 8  # of one partition: past them more are destroyed than made
BLOCK: Final = bytes(16)
OTHER_SIDE: Final = frozenset((CKR.KEY_FUNCTION_NOT_PERMITTED,))


@dataclass
class Client:
    """A connection, and the model's view of it."""

    name: str
    guest: str
    peer: Peer
    model: shadow.Application


class Driver:
    """Takes random steps in the world and in the model, and compares."""

    def __init__(self, guests: dict[str, Guest], seed: int) -> None:
        self.guests = guests
        self.random = random.Random(seed)  # noqa: S311 - chooses steps, and must choose the same ones again
        self.shadow = Shadow(MASTER_KEYS)
        self.log: list[str] = []
        self.labels = (f"o{number}".encode() for number in range(1 << 20))
        self.clients = [self.connect(guest, number) for guest in guests for number in (1, 2)]
        self.seen: set[str] = set()

    def connect(self, guest: str, number: int) -> Client:
        model = self.shadow.connect(guest)
        return Client(f"{guest}.{number}", guest, self.guests[guest].connect(), model)

    def run(self, steps: int) -> None:
        weighted = [step for step, weight in WEIGHTS.items() for _ in range(weight)]
        for _ in range(steps):
            self.random.choice(weighted)(self)

    # --- choosing

    def working(self, client: Client) -> list[int]:
        """The client's sessions in which keys can be used."""
        model = client.model
        return [handle for handle in sorted(model.sessions) if self.shadow.enter(model, handle) == DONE]

    def client(self) -> Client:
        """Mostly one that can do something."""
        able = [client for client in self.clients if self.working(client)]
        return self.random.choice(able if able and self.random.random() < 0.7 else self.clients)

    def session(self, client: Client, *, active: bool = False) -> int:
        """Mostly one that works; else any of the client's own, which may be dead, or any number that somebody has."""
        model, chance = client.model, self.random.random()
        own, working = sorted(model.sessions), self.working(client)
        under_way = [handle for handle in working if model.sessions[handle].active]
        if active and under_way and chance < 0.7:
            return self.random.choice(under_way)
        if working and chance < 0.85:
            return self.random.choice(working)
        if own and chance < 0.95:
            return self.random.choice(own)
        return self.random.choice(sorted({n for other in self.clients for n in other.model.sessions} | {1}))

    def number(self, client: Client, handle: int) -> int:
        """Mostly one that works in the session; else any of the client's own, or any that somebody has."""
        model, chance = client.model, self.random.random()
        own = sorted(model.names)
        working = [number for number in own if self.shadow.use(model, handle, number)[0] >= DONE]
        if working and chance < 0.75:
            return self.random.choice(working)
        if own and chance < 0.85:
            return self.random.choice(own)
        return self.random.choice(sorted({n for other in self.clients for n in other.model.names} | {1}))

    def note(self, text: str) -> None:
        self.log.append(text)

    def call(self, client: Client, right: Rvs, name: str, *values: Any) -> tuple[int, Any]:
        """Make the call; its CK_RV, which must be one of `right`, and what it says."""
        shown = ", ".join(str(value) for value in values if isinstance(value, int))
        try:
            rv, said = 0, client.peer.call(name, *values)
        except CallFailed as failed:
            rv, said = failed.rv, None
        self.note(f"{client.name} {name}({shown}) -> {rv:#x}")
        self.seen.add(f"{name} {'done' if rv == 0 else 'refused'}")
        assert rv in right, f"expected {', '.join(f'{one:#x}' for one in sorted(right))}"
        return rv, said

    def make(self, client: Client, session: int, rvs: Rvs, key: Key, name: str, *values: Any) -> None:
        rv, number = self.call(client, rvs, name, session, *values)
        if rv == 0:
            self.shadow.made(client.model, session, key)
            self.shadow.named(client.model, session, key, number)
            hsm, kind = client.model.sessions[session].hsm, "session" if key.session else "token"
            who = "private" if key.private else "public"
            self.note(f"    made {key.label!r}, a {who} {kind} object on {hsm}: {number}")

    # --- the host's steps

    def bind(self) -> None:
        free = [hsm for hsm in MASTER_KEYS if hsm not in self.shadow.bound]
        if free:
            hsm, guest = self.random.choice(free), self.random.choice(sorted(self.guests))
            self.note(f"bind {hsm} to {guest}")
            self.guests[guest].keeper.bind(hsm)
            self.shadow.bind(guest, hsm)

    def associate(self) -> None:
        waiting = [hsm for hsm, binding in self.shadow.bound.items() if binding.place is None]
        if waiting:
            hsm, secret = self.random.choice(waiting), self.random.choice(SECRETS)
            guest = self.guests[self.shadow.bound[hsm].guest]
            self.note(f"associate {hsm} with secret {SECRETS.index(secret)}")
            guest.keeper.associate(hsm, guest.token.partition_keys(MASTER_KEYS[hsm], secret))
            self.shadow.associate(hsm, secret)

    def unbind(self) -> None:
        if self.shadow.bound:
            hsm = self.random.choice(sorted(self.shadow.bound))
            self.note(f"unbind {hsm}")
            self.guests[self.shadow.bound[hsm].guest].keeper.unbind(hsm)
            self.shadow.unbind(hsm)

    # --- the applications' steps

    def reconnect(self) -> None:
        index = self.random.randrange(len(self.clients))
        old = self.clients[index]
        self.note(f"{old.name} goes away, and comes again")
        old.peer.close()
        self.clients[index] = self.connect(old.guest, int(old.name[-1]))

    def open_session(self) -> None:
        client, hsm = self.client(), self.random.choice(sorted(MASTER_KEYS))
        rv, handle = self.call(
            client, self.shadow.open_session(client.guest, hsm), "C_OpenSession", slot_of(hsm), 6
        )
        if rv == 0:
            client.model.given(handle)
            client.model.sessions[handle] = shadow.Session(hsm, self.shadow.bound[hsm])

    def close_session(self) -> None:
        client = self.client()
        handle = self.session(client)
        right = self.shadow.enter(client.model, handle, sensitive=False)
        if handle in client.model.sessions:
            right |= DONE  # a dead session may not have been cleared away yet
        self.call(client, right, "C_CloseSession", handle)
        if handle in client.model.sessions:
            self.shadow.close_session(client.model, handle)

    def login(self) -> None:
        client = self.client()
        handle = self.session(client)
        right = self.shadow.enter(client.model, handle)
        if right == DONE and self.shadow.logged_in(client.model, client.model.sessions[handle]):
            right = frozenset((CKR.USER_ALREADY_LOGGED_IN,))
        rv, _ = self.call(client, right, "C_Login", handle, 1, None)
        if rv == 0:
            client.model.logins.add(client.model.sessions[handle].binding)

    def logout(self) -> None:
        client = self.client()
        handle = self.session(client)
        right = self.shadow.enter(client.model, handle, sensitive=False)
        if right == DONE and not self.shadow.logged_in(client.model, client.model.sessions[handle]):
            right = frozenset((CKR.USER_NOT_LOGGED_IN,))
        rv, _ = self.call(client, right, "C_Logout", handle)
        if rv == 0:
            self.shadow.logout(client.model, client.model.sessions[handle])

    def session_info(self) -> None:
        client = self.client()
        handle = self.session(client)
        right = self.shadow.enter(client.model, handle, sensitive=False)
        rv, said = self.call(client, right, "C_GetSessionInfo", handle)
        if rv == 0:
            session = client.model.sessions[handle]
            state = 3 if self.shadow.logged_in(client.model, session) else 2
            assert said[:2] == (slot_of(session.hsm), state)

    def slot_event(self) -> None:
        client = self.client()
        hsm = self.shadow.event(client.model)
        right = frozenset((CKR.NO_EVENT,)) if hsm is None else DONE
        _, said = self.call(client, right, "C_WaitForSlotEvent", 1)
        assert hsm is None or said == slot_of(hsm)

    def generate(self) -> None:
        client = self.client()
        handle = self.session(client)
        token, private = self.random.random() < 0.4, self.random.random() < 0.5
        made_in = None if token else client.model.sessions.get(handle)
        wraps = self.random.random() < 0.5
        key = Key(next(self.labels), private, made_in, client.guest, wraps=wraps)
        template = [
            *((type_, wraps) for type_ in (CKA.WRAP, CKA.UNWRAP)),
            *((type_, not wraps) for type_ in (CKA.ENCRYPT, CKA.DECRYPT)),
            (CKA.EXTRACTABLE, True),
            (CKA.VALUE_LEN, 32),
            (CKA.LABEL, key.label),
            (CKA.TOKEN, token),
            (CKA.PRIVATE, private),
        ]
        right = self.shadow.make(client.model, handle, private=private)
        self.make(client, handle, right, key, "C_GenerateKey", Mechanism(CKM.AES_KEY_GEN), template)

    def copy(self) -> None:
        client = self.client()
        handle = self.session(client)
        number = self.number(client, handle)
        right, original = self.shadow.use(client.model, handle, number)
        token, label = self.random.random() < 0.3, next(self.labels)
        made_in = None if token else client.model.sessions.get(handle)
        private, wraps = (original.private, original.wraps) if original is not None else (False, False)
        key = Key(label, private, made_in, client.guest, wraps=wraps)
        self.make(
            client, handle, right, key, "C_CopyObject", number, [(CKA.LABEL, label), (CKA.TOKEN, token)]
        )

    def destroy(self) -> None:
        client = self.client()
        handle = self.session(client)
        number = self.number(client, handle)
        right, key = self.shadow.use(client.model, handle, number)
        rv, _ = self.call(client, right, "C_DestroyObject", handle, number)
        if rv == 0:
            assert key is not None
            self.shadow.destroyed(client.model, key)
            del client.model.names[number]

    def destroy_when_full(self) -> None:
        if any(len(kept) > MOST_OBJECTS for kept in self.shadow.lasting()):
            self.destroy()

    def wrap(self) -> None:
        client = self.client()
        handle = self.session(client)
        wrapping, wrapped = self.number(client, handle), self.number(client, handle)
        one, by = self.shadow.use(client.model, handle, wrapping)
        other, _ = self.shadow.use(client.model, handle, wrapped)
        right = one | other if one >= DONE and other >= DONE else (one | other) - DONE
        # The module may look for this before it looks for the other key.
        if by is not None and not by.wraps and one >= DONE:
            right = (right - DONE) | OTHER_SIDE
        _, said = self.call(
            client, right, "C_WrapKey", handle, Mechanism(CKM.AES_KEY_WRAP), wrapping, wrapped, 256
        )
        assert said is None or len(said) == 40

    def find(self) -> None:
        client = self.client()
        handle = self.session(client)
        right = self.shadow.enter(client.model, handle)
        if self.shadow.is_active(client.model, handle):
            right = shadow.ACTIVE
        rv, _ = self.call(client, right, "C_FindObjectsInit", handle, [])
        if rv:
            return
        _, numbers = self.call(client, DONE, "C_FindObjects", handle, 512)
        self.call(client, DONE, "C_FindObjectsFinal", handle)
        must, may = self.shadow.visible(client.model, handle)
        found = dict(zip(numbers, map(partial(self.label, client, handle, bool(may)), numbers), strict=True))
        labels = {label for label in found.values() if label is not None}
        self.note(f"    found {sorted(labels)}, expected {sorted(must)}, perhaps {sorted(may)}")
        assert len(numbers) == len(set(numbers)), "an object is found twice"
        assert must.keys() <= labels <= must.keys() | may.keys()
        for number, label in sorted(found.items()):
            if label is not None:
                self.shadow.named(client.model, handle, (must | may)[label], number)

    def label(self, client: Client, handle: int, may_be_gone: bool, number: int) -> bytes | None:
        """The label of what was found; None where another guest has destroyed it."""
        try:
            return bytes(client.peer.attribute(handle, number, CKA.LABEL))
        except CallFailed:
            assert may_be_gone, "what was found has no label"
            return None

    # --- an operation in parts

    def begin(self) -> None:
        client = self.client()
        handle = self.session(client)
        number = self.number(client, handle)
        right, key = self.shadow.use(client.model, handle, number)
        if key is not None and key.wraps and right >= DONE:
            right = (right - DONE) | OTHER_SIDE
        if self.shadow.is_active(client.model, handle):  # the module may look for either first
            right = (right - DONE) | shadow.ACTIVE
        rv, _ = self.call(client, right, "C_EncryptInit", handle, Mechanism(CKM.AES_ECB), number)
        if rv == 0:
            client.model.sessions[handle].active = True

    def under_way(self, client: Client, handle: int) -> Rvs:
        right = self.shadow.enter(client.model, handle)
        if right == DONE and not client.model.sessions[handle].active:
            return frozenset((CKR.OPERATION_NOT_INITIALIZED,))
        return right

    def update(self) -> None:
        client = self.client()
        handle = self.session(client, active=True)
        _, said = self.call(client, self.under_way(client, handle), "C_EncryptUpdate", handle, BLOCK, 64)
        assert said is None or len(said) == len(BLOCK)

    def finish(self) -> None:
        client = self.client()
        handle = self.session(client, active=True)
        rv, _ = self.call(client, self.under_way(client, handle), "C_EncryptFinal", handle, 64)
        if rv == 0:
            client.model.sessions[handle].active = False


WEIGHTS: Final[dict[Callable[[Driver], None], int]] = {
    Driver.bind: 6,
    Driver.associate: 8,
    Driver.unbind: 3,
    Driver.reconnect: 1,
    Driver.open_session: 9,
    Driver.close_session: 2,
    Driver.login: 9,
    Driver.logout: 2,
    Driver.session_info: 4,
    Driver.slot_event: 4,
    Driver.generate: 12,
    Driver.copy: 6,
    Driver.destroy: 3,
    Driver.destroy_when_full: 6,
    Driver.wrap: 6,
    Driver.find: 12,
    Driver.begin: 5,
    Driver.update: 5,
    Driver.finish: 3,
}


@pytest.fixture
def guests(machine: Machine) -> dict[str, Guest]:
    machine.token.ensure_master_key("blue")
    both = {name: machine.guest(name) for name in ("one", "two")}
    for guest in both.values():
        guest.keeper.detach(ACCELERATOR)
        guest.keeper.attach(machine.about(OTHER, Mode.EP11))
    return both


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_crosses_connections_slots_or_guests(seed: int, guests: dict[str, Guest]) -> None:
    driver = Driver(guests, seed)
    try:
        driver.run(STEPS)
    except Exception as error:
        steps = "\n".join(f"{number:4} {text}" for number, text in enumerate(driver.log))
        pytest.fail(f"seed {seed} failed at its last step: {error!r}\n{steps}", pytrace=False)
    both_ways = {
        "C_GenerateKey",
        "C_CopyObject",
        "C_DestroyObject",
        "C_WrapKey",
        "C_EncryptUpdate",
        "C_Login",
    }
    assert {f"{name} {how}" for name in both_ways for how in ("done", "refused")} <= driver.seen
