"""A search over all short sequences of calls for one that brings a sensitive key out, on real tokens.

A world is a token to which calls are made; a state is what an attacker has: keys with their attributes, blobs, and
what is known. Two states that differ in the names of things alone are one. A sequence is made again from the start
where it has to be, since a token cannot be put back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from keyvisor_hsm.cryptoki import CKA

Asked = dict[CKA, bool | int | bytes]
SIZE: Final = 16  # bytes of every key
KNOWN: Final = b"known by attacker"[:SIZE]
FLAGS: Final = (CKA.ENCRYPT, CKA.DECRYPT, CKA.WRAP, CKA.UNWRAP, CKA.SENSITIVE, CKA.EXTRACTABLE)
MOST_KEYS, MOST_BLOBS = 3, 3  # besides the victim


class RefusedCall(Exception):
    """The world does not do it."""


class World(Protocol):
    """A token. Each call raises RefusedCall."""

    def generate(self, asked: Asked) -> int: ...
    def create(self, asked: Asked) -> int: ...
    def copy(self, key: int, asked: Asked) -> int: ...
    def change(self, key: int, asked: Asked) -> None: ...
    def destroy(self, key: int) -> None: ...
    def wrap(self, by: int, key: int) -> bytes: ...
    def unwrap(self, by: int, blob: bytes, asked: Asked) -> int: ...
    def encrypt(self, key: int, block: bytes) -> bytes: ...
    def decrypt(self, key: int, block: bytes) -> bytes: ...
    def value(self, key: int) -> bytes: ...
    def flags(self, key: int) -> tuple[bool, ...]: ...


def powers(*on: CKA, **more: bool) -> Asked:
    """A template with these powers alone."""
    off: Asked = dict.fromkeys(FLAGS[:4], False)
    return {**off, **dict.fromkeys(on, True), **{CKA[name]: value for name, value in more.items()}}


GENERATED: Final[dict[str, Asked]] = {
    "undecided": powers(*FLAGS[:4], EXTRACTABLE=True, SENSITIVE=True),
    "wrapping": powers(CKA.WRAP, CKA.UNWRAP, EXTRACTABLE=True, SENSITIVE=True),
    "wrap and decrypt": powers(CKA.WRAP, CKA.DECRYPT, EXTRACTABLE=True, SENSITIVE=True),
}
UNWRAPPED: Final[dict[str, Asked]] = {
    "to wrap": powers(CKA.WRAP, CKA.UNWRAP, SENSITIVE=True),
    "to decrypt": powers(CKA.DECRYPT, CKA.ENCRYPT, SENSITIVE=True),
    "readable": powers(CKA.DECRYPT, SENSITIVE=False, EXTRACTABLE=True),
}
CHANGED: Final[dict[str, Asked]] = {
    "wrap on": {CKA.WRAP: True},
    "decrypt on": {CKA.DECRYPT: True},
    "sensitive off": {CKA.SENSITIVE: False},
}


@dataclass
class State:
    """What the attacker has. A key's origin and a blob's making are kept as text, which no name of a thing is in."""

    world: World
    keys: list[tuple[int, str]] = field(default_factory=list)
    blobs: list[tuple[bytes, str]] = field(default_factory=list)
    read: set[bytes] = field(default_factory=set)  # values that came out

    def seen(self) -> tuple[object, ...]:
        """The same for two states that differ in names alone."""
        described = sorted((origin, self.world.flags(key)) for key, origin in self.keys)
        return tuple(described), tuple(sorted(making for _, making in self.blobs)), len(self.read)

    def values(self) -> set[bytes]:
        """All that the attacker knows or can work out by himself."""
        known = {KNOWN, *self.read}
        while True:
            more = set(known)
            for (blob, _), value in itertools.product(self.blobs, known):
                try:
                    more.add(aes_key_unwrap(value, blob))
                except InvalidUnwrap:
                    continue
            if more == known:
                return known
            known = more


# What is done is named by places in the state, so that it can be done again in another token.
Step = tuple[str, Callable[[State], None]]


def start(world: World) -> State:
    """The victim alone: sensitive, and extractable so that it can be backed up."""
    victim = world.generate(powers(CKA.ENCRYPT, CKA.DECRYPT, SENSITIVE=True, EXTRACTABLE=True))
    return State(world, [(victim, "victim")])


def steps(state: State) -> Iterator[Step]:
    """Every call of the alphabet that can be tried."""
    room = len(state.keys) <= MOST_KEYS
    keys, blobs = range(len(state.keys)), range(len(state.blobs))
    if room:
        yield from ((f"generate {name}", _generate(name)) for name in GENERATED)
        if not any(origin == "known" for _, origin in state.keys):
            yield "create a known key", _create
        yield from ((f"copy key {k} {name}", _copy(k, CHANGED[name])) for k in keys for name in CHANGED)
        yield from (
            (f"unwrap blob {b} by key {k} {name}", _unwrap(k, b, name))
            for k in keys
            for b in blobs
            for name in UNWRAPPED
        )
    yield from ((f"change key {k} {name}", _change(k, CHANGED[name])) for k in keys for name in CHANGED)
    if len(state.blobs) < MOST_BLOBS:
        yield from ((f"wrap key {x} by key {k}", _wrap(k, x)) for k in keys for x in keys if k != x)
        yield from ((f"encrypt the known value by key {k}", _encrypt(k)) for k in keys if k)
    yield from ((f"decrypt blob {b} by key {k}", _decrypt(k, b)) for k in keys for b in blobs if k)
    yield from ((f"read key {k}", _read(k)) for k in keys)


def _generate(name: str) -> Callable[[State], None]:
    def step(state: State) -> None:
        origins = {origin for _, origin in state.keys}
        number = next(n for n in itertools.count(1) if f"{name} {n}" not in origins)
        state.keys.append((state.world.generate(GENERATED[name]), f"{name} {number}"))

    return step


def _create(state: State) -> None:
    asked = {**powers(*FLAGS[:4], SENSITIVE=False), CKA.VALUE: KNOWN}
    state.keys.append((state.world.create(asked), "known"))


def _copy(k: int, asked: Asked) -> Callable[[State], None]:
    def step(state: State) -> None:
        key, origin = state.keys[k]
        state.keys.append((state.world.copy(key, asked), origin))

    return step


def _change(k: int, asked: Asked) -> Callable[[State], None]:
    return lambda state: state.world.change(state.keys[k][0], asked)


def _wrap(k: int, x: int) -> Callable[[State], None]:
    def step(state: State) -> None:
        (by, by_origin), (key, origin) = state.keys[k], state.keys[x]
        state.blobs.append((state.world.wrap(by, key), f"({origin} by {by_origin})"))

    return step


def _unwrap(k: int, b: int, name: str) -> Callable[[State], None]:
    def step(state: State) -> None:
        blob, making = state.blobs[b]
        key = state.world.unwrap(state.keys[k][0], blob, UNWRAPPED[name])
        state.keys.append((key, f"from {making}"))

    return step


def _encrypt(k: int) -> Callable[[State], None]:
    def step(state: State) -> None:
        key, origin = state.keys[k]
        state.blobs.append((_wrapped(lambda block: state.world.encrypt(key, block)), f"(known by {origin})"))

    return step


def _decrypt(k: int, b: int) -> Callable[[State], None]:
    def step(state: State) -> None:
        value = _opened(lambda block: state.world.decrypt(state.keys[k][0], block), state.blobs[b][0])
        if value is not None:
            state.read.add(value)

    return step


def _read(k: int) -> Callable[[State], None]:
    return lambda state: state.read.add(state.world.value(state.keys[k][0]))


# RFC 3394, 2.2, by single blocks, for values of 16 bytes.
_CHECK: Final = b"\xa6" * 8


def _wrapped(encrypt: Callable[[bytes], bytes]) -> bytes:
    check, parts = _CHECK, [KNOWN[:8], KNOWN[8:]]
    for step in range(12):
        block = encrypt(check + parts[step % 2])
        check = (int.from_bytes(block[:8], "big") ^ (step + 1)).to_bytes(8, "big")
        parts[step % 2] = block[8:]
    return check + parts[0] + parts[1]


def _opened(decrypt: Callable[[bytes], bytes], blob: bytes) -> bytes | None:
    check, parts = blob[:8], [blob[8:16], blob[16:24]]
    for step in reversed(range(12)):
        block = decrypt((int.from_bytes(check, "big") ^ (step + 1)).to_bytes(8, "big") + parts[step % 2])
        check, parts[step % 2] = block[:8], block[8:]
    return parts[0] + parts[1] if check == _CHECK else None


@dataclass(frozen=True)
class Result:
    """The shortest sequence that brings the victim out, None if there is none; and how much was looked at."""

    sequence: tuple[str, ...] | None
    states: int
    tried: int
    refused: int


def search(
    world: World, is_victim: Callable[[State, set[bytes]], bool], depth: int, without: tuple[str, ...] = ()
) -> Result:
    """Every sequence of up to `depth` calls, the shorter first; calls whose name begins as one of `without` are left out."""
    first = start(world)
    seen, frontier = {first.seen()}, [((), ())]
    tried = refused = 0
    _end(first)
    for _ in range(depth):
        following: list[tuple[tuple[str, ...], tuple[Callable[[State], None], ...]]] = []
        for names, done in frontier:
            state = _again(world, done)
            for name, step in list(steps(state)):
                if name.startswith(without):
                    continue
                before = (list(state.keys), list(state.blobs), set(state.read), state.seen())
                tried += 1
                try:
                    step(state)
                except RefusedCall:
                    refused += 1
                if (now := state.seen()) == before[3]:
                    continue
                if now not in seen:
                    seen.add(now)
                    if is_victim(state, state.values()):
                        _end(state)
                        return Result((*names, name), len(seen), tried, refused)
                    following.append(((*names, name), (*done, step)))
                state = _undone(state, before, done)
            _end(state)
        frontier = following
    return Result(None, len(seen), tried, refused)


_Before = tuple[list[tuple[int, str]], list[tuple[bytes, str]], set[bytes], object]


def _undone(state: State, before: _Before, done: tuple[Callable[[State], None], ...]) -> State:
    for key, _ in state.keys[len(before[0]) :]:
        state.world.destroy(key)
    state.keys, state.blobs, state.read = before[:3]
    if state.seen() == before[3]:
        return state
    _end(state)
    return _again(state.world, done)


def _again(world: World, done: tuple[Callable[[State], None], ...]) -> State:
    state = start(world)
    for step in done:
        try:
            step(state)
        except RefusedCall:
            continue  # it had changed something all the same
    return state


def _end(state: State) -> None:
    for key, _ in state.keys:
        state.world.destroy(key)
