"""What is fuzzed: functions of bytes that raise when something is wrong. Hypothesis and atheris run the same ones."""

from __future__ import annotations

import itertools
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from keyvisor_firmware.broker.calls import CALLS, Access, Call
from keyvisor_firmware.broker.codec import read_request
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.errors import Failed, ProtocolError, Refused
from keyvisor_firmware.broker.framing import HEAD_LENGTH, frame, parse_head
from keyvisor_firmware.broker.hot.loop import HotLoop, load
from keyvisor_firmware.broker.mechanism_parameters import Encoding
from keyvisor_firmware.broker.pin_file import NAME as PIN_FILE
from keyvisor_firmware.broker.serve import serve
from keyvisor_firmware.broker.slots import Grant
from keyvisor_firmware.broker.state_page import HsmState

from ..firmware.broker.encoder import HANDSHAKE, body
from ..firmware.broker.in_process import SLOT_ID, Bench, recording
from .grammar import LIMITS, request
from .paths import Conversation
from .source import Source

T = TypeVar("T")

_MOST_FRAMES: Final = 16  # of one connection: what is sent at once has room in the socket
_HOME: Final = tempfile.TemporaryDirectory(prefix="kv-fuzz-")  # where a token's PINs would be


# --- the codec


def codec(data: bytes) -> None:
    """Whatever comes is read or refused, and what is read keeps to the limits."""
    source = Source(data)
    encoding = source.choice(tuple(Encoding))
    content = source.take(1 << 16) if source.number(2) else request(source)
    try:
        call, values = read_request(content, encoding, LIMITS)
    except (ProtocolError, Failed):
        pass
    else:
        assert len(values) == len(call.roles)
        templates = [
            value for value in values if isinstance(value, tuple) and value and not _is_version(value)
        ]
        assert sum(map(len, templates)) <= LIMITS.attributes
    head = content[:HEAD_LENGTH].ljust(HEAD_LENGTH, b"\0")
    try:
        parsed = parse_head(head, LIMITS)
    except ProtocolError:
        return
    assert (parsed.options, parsed.body) <= (LIMITS.frame_options, LIMITS.frame_body)


def _is_version(value: tuple[object, ...]) -> bool:
    return all(isinstance(one, int) for one in value)


# --- the filter


def filter_(data: bytes) -> None:
    """States come and go in any order; what is admitted and confirmed is what a model allows that knows no grants."""
    source = Source(data)
    bench = Bench(recording(), source.choice(("ep11", "accel")))
    admitted: list[tuple[Grant, int, HsmState]] = []  # with the binding and the state of that moment
    binding, state = 0, HsmState.UNBOUND
    while source:
        match source.number(6):
            case 0:
                binding, state = 0, HsmState.UNBOUND
                bench.grant(state)
            case 1:
                binding, state = bench.epoch + 1, HsmState.BOUND
                bench.grant(state, binding=binding)
            case 2 if binding:
                state = HsmState.ASSOCIATED
                bench.grant(state, binding=binding)
            case 3:  # the page runs ahead of the gate
                binding, state = 0, HsmState.UNBOUND
                bench.revoke()
            case 4 if admitted:
                grant, then, was = source.choice(admitted)
                _require_alike(partial(bench.slot.confirm, grant), binding == then and state >= was)
            case _:
                call = source.choice(CALLS)
                if grant := _require_alike(partial(bench.slot.admit, call), _allowed(bench, call, state)):
                    admitted.append((grant, binding, state))


def _allowed(bench: Bench, call: Call, state: HsmState) -> bool:
    if state is HsmState.BOUND and call.access is Access.SENSITIVE:
        return bench.mode == "accel" and call.accelerator
    return state is not HsmState.UNBOUND


def _require_alike(ask: Callable[[], T], allowed: bool) -> T | None:
    try:
        answer = ask()
    except Refused:
        assert not allowed, "refused, and the model allows it"
        return None
    assert allowed, "let through, and the model does not allow it"
    return answer


# --- the whole gate


def gate(data: bytes, compiled: HotLoop | None = None) -> None:
    """One connection from its first byte to its end, while the HSM comes and goes; the module is a recorder.

    Every call has one answer; the connection ends as its application's end, or as bytes that are not the protocol;
    nothing of it is left behind.
    """
    source = Source(data)
    home = Path(_HOME.name)
    (home / PIN_FILE).unlink(missing_ok=True)
    bench = Bench(recording(home), source.choice(("ep11", "accel")), compiled)
    bench.grant(source.choice((HsmState.ASSOCIATED, HsmState.BOUND, HsmState.UNBOUND)))
    _come_and_go(bench, source)
    sent = _conversation(source)
    connection = Connection("payments", bench.slots, LIMITS, compiled)
    before = threading.active_count()
    received = _converse(sent, connection)
    _check_replies(received)
    assert threading.active_count() == before, "a thread is left behind"
    assert not connection.handles.sessions, "a session is left behind"
    assert not connection.handles.objects, "an object's handle is left behind"
    assert not bench.store.owners, "an object's owner is left behind"


def _come_and_go(bench: Bench, source: Source) -> None:
    """At some of the module's calls, from within, the HSM is taken away or bound again."""
    changes: tuple[Callable[[], None], ...] = (
        bench.revoke,
        lambda: bench.grant(HsmState.BOUND),
        lambda: bench.grant(HsmState.ASSOCIATED),
    )
    names = ("C_EncryptUpdate", "C_CreateObject", "C_FindObjects", "C_GenerateKeyPair", "C_GetAttributeValue")
    for _ in range(source.number(3)):
        change, turns = source.choice(changes), itertools.count(-source.number(4))
        bench.calls.after[source.choice(names)] = lambda change=change, turns=turns: next(turns) or change()


def _conversation(source: Source) -> bytes:
    """What an application sends: mostly frames around calls, a handshake and a session first."""
    if source.number(16) == 0:
        return b"\0" + frame(1, source.take(1 << 12))
    opening = [
        body("C_Initialize", HANDSHAKE, 0, b"\0"),
        body("C_OpenSession", SLOT_ID, 6),
        body("C_CreateObject", 1, []),
    ]
    contents = opening[: 3 - source.number(8) // 5]
    while source and len(contents) < _MOST_FRAMES:
        contents.append(_content(source, contents))
    frames = b"".join(frame_of(code, content, source) for code, content in enumerate(contents, 1))
    cut = len(frames) - source.number(16) if source.number(4) == 0 else len(frames)
    return source.choice((b"\0", b"\2")) + frames[:cut]


def _content(source: Source, before: list[bytes]) -> bytes:
    """Any bytes, a call, or what was said before, which the hot loop may remember."""
    match source.number(8):
        case 0:
            return source.sized()
        case 1 | 2:
            return source.choice(before)
        case _:
            return request(source)


def frame_of(code: int, content: bytes, source: Source) -> bytes:
    """A frame around `content`, with options now and then."""
    if source.number(4):
        return frame(code, content)
    options = source.take(80)
    return struct.pack(">III", code, len(options), len(content)) + options + content


def _converse(sent: bytes, connection: Connection) -> bytes:
    ours, theirs = socket.socketpair()
    received = bytearray()
    with ours, theirs:
        listener = threading.Thread(target=_listen, args=(ours, received))
        listener.start()
        ours.sendall(sent)
        ours.shutdown(socket.SHUT_WR)
        try:
            serve(theirs, connection, lambda _call, _refused: None)
        except (ProtocolError, OSError):
            pass
        finally:
            theirs.close()
            listener.join()
    return bytes(received)


def _listen(channel: socket.socket, received: bytearray) -> None:
    while some := channel.recv(1 << 16):
        received += some


def _check_replies(received: bytes) -> None:
    """The version, then whole frames without options; no more of them than were asked for, each call's one at most."""
    rest, codes = received[1:], []
    while rest:
        code, options, length = struct.unpack_from(">III", rest)
        assert options == 0
        assert len(rest) >= HEAD_LENGTH + length, "half a reply"
        codes.append(code)
        rest = rest[HEAD_LENGTH + length :]
    assert len(codes) == len(set(codes)), "a call was answered twice"


# --- both paths

_LOOP: Final = load()


def hot(data: bytes) -> None:
    """The same with the compiled hot loop."""
    assert _LOOP is not None
    gate(data, _LOOP)


def paths(data: bytes) -> None:
    """Both paths do the same."""
    assert _LOOP is not None
    home = Path(_HOME.name)
    for file in home.glob(f"*/{PIN_FILE}"):
        file.unlink()
    Conversation(_LOOP, home, Source(data)).run()


# What is not built is no target.
TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "codec": codec,
    "filter": filter_,
    "gate": gate,
    **({} if _LOOP is None else {"hot": hot, "paths": paths}),
}
