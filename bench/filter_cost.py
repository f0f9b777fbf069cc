"""Section `filter`: what the broker itself takes of a call, without a socket and with a module that does nothing.

The bytes of a request go in and the bytes of its reply come out, as `serve` has it; of that, what the filter takes:
the grant asked for before the module is called, and confirmed before the reply leaves.
"""

from __future__ import annotations

import ctypes
import tempfile
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.firmware.broker.encoder import body, read_reply
from tests.firmware.broker.in_process import SLOT_ID, AnyFunction, Bench, NoModule

from bench.run import Figures, Run
from keyvisor_firmware.broker.calls import CALLS, Call
from keyvisor_firmware.broker.codec import read_request
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.errors import Refused
from keyvisor_firmware.broker.hot.loop import Outcome, load
from keyvisor_firmware.broker.hot.memos import remember
from keyvisor_firmware.broker.key_store import KeyStore
from keyvisor_firmware.broker.limits import DEFAULTS
from keyvisor_firmware.broker.mechanism_parameters import Encoding
from keyvisor_firmware.broker.serve import answer
from keyvisor_firmware.broker.state_page import HsmState
from keyvisor_hsm.cryptoki.native import address_of_function

_ENCODING: Final = Encoding.UP_TO_0_25_5
_CALLS: Final = {call.name: call for call in CALLS}
_ROUNDS: Final = 7
_LOOPS: Final = 5000

# Calls that only ask, so that any number of them is the same: C_Sign without room asks for a signature's length.
_MEASURED: Final[dict[str, Callable[[int], bytes]]] = {
    "C_GetSessionInfo": lambda session: body("C_GetSessionInfo", session),
    "C_GenerateRandom, 32 B": lambda session: body("C_GenerateRandom", session, 32),
    "C_Sign, 1 KiB": lambda session: body("C_Sign", session, bytes(1024), 64),
}


def measure(run: Run) -> Figures:
    """Microseconds per call."""
    run.say("the filter's own cost")
    return dict(filter_cost())


def filter_cost(loops: int = _LOOPS) -> dict[str, dict[str, float]]:
    """Microseconds per call, least of several rounds: of the whole way, of reading the request, of the filter alone.

    The least, because everything else that the machine does only adds to it.
    """
    loop = load()
    with tempfile.TemporaryDirectory(prefix="kv-") as name:  # where a token's PINs would be
        bench = _bench(Path(name))
        pure, compiled = (Connection("bench", bench.slots, DEFAULTS, one) for one in (None, loop))
        costs = {
            name: _costs(bench, pure, _CALLS[name.partition(",")[0]], request, loops)
            for name, request in _requests(pure).items()
        }
        if compiled.hot is not None:
            for name, request in _requests(compiled).items():
                costs[name]["request to reply, compiled"] = _compiled_cost(compiled, request, loops)
        return costs


def _requests(connection: Connection) -> dict[str, bytes]:
    """What is measured, in a session that is open in the module, and logged in."""
    session = read_reply("C_OpenSession", _answered(connection, body("C_OpenSession", SLOT_ID, 6)))
    read_reply("C_Login", _answered(connection, body("C_Login", session, 1, None)))
    return {name: make(session) for name, make in _MEASURED.items()}


def _compiled_cost(connection: Connection, content: bytes, loops: int) -> float:
    """The same in the hot loop, what it costs to call it from here included."""
    hot = connection.hot
    assert hot is not None  # noqa: S101 - the caller has looked
    call, values = read_request(content, _ENCODING, DEFAULTS)
    changes = connection.handles.board.changes
    remember(connection, call, values, content, _ENCODING, _answered(connection, content), changes)
    outcome, reply = hot.answer(content)
    if outcome is not Outcome.ANSWERED:
        raise SystemExit(f"{call.name} does not go through the hot loop: {outcome.name}")
    read_reply(call.name, reply)
    pointer, length, answer_ = hot.pointer, len(content), hot.loop.answer
    return _least(lambda: answer_(pointer, content, length), loops)


def _costs(bench: Bench, connection: Connection, call: Call, content: bytes, loops: int) -> dict[str, float]:
    read_reply(call.name, _answered(connection, content))  # it is let through
    ways: dict[str, Callable[[], object]] = {
        "request to reply": lambda: _answered(connection, content),
        "reading the request": lambda: read_request(content, _ENCODING, DEFAULTS),
        "filter": lambda: bench.slot.confirm(bench.slot.admit(call)),
    }
    return {name: _least(way, loops) for name, way in ways.items()}


def _bench(directory: Path) -> Bench:
    """An associated HSM whose module answers everything with CKR_OK."""
    store = KeyStore(NoModule(directory))  # type: ignore[arg-type]  # stands in for a partition
    store.call = AnyFunction()
    # A function of the C library that answers 0, as CKR_OK is, to any two arguments that are not the same.
    nothing = address_of_function(ctypes.CDLL(None).pthread_equal)
    store.functions = array("Q", [nothing] * len(store.functions))
    bench = Bench(store)
    bench.grant(HsmState.ASSOCIATED)
    return bench


def _answered(connection: Connection, content: bytes) -> bytes:
    return answer(connection, content, _ENCODING, _refused)


def _refused(call: str, refused: Refused) -> None:
    raise SystemExit(f"{call} is refused: {refused}")


def _least(run: Callable[[], object], loops: int) -> float:
    times = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        for _ in range(loops):
            run()
        times.append((time.perf_counter() - begin) / loops * 1e6)
    return min(times)
