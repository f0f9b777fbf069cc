"""One client's conversation with an NBD server, without a socket: bytes in, events out.

A client's bytes go into `Session.receive`; it gives what has to be said, what has to be read, and the end. Options come first,
then requests: `_PHASES` says what is read in which phase. Everything is read-only; what writes is refused, its data passed
over. Knows no image: whoever reads answers with `answered`, `looked` or `failed`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from keyvisor_guest.containers import nbd_protocol as nbd
from keyvisor_guest.containers.nbd_protocol import (
    Command,
    Export,
    Malformed,
    NbdError,
    Option,
    Reply,
    Request,
)

__all__ = ["End", "Event", "Look", "Read", "Say", "Session"]


@dataclass(frozen=True, slots=True)
class Say:
    """Bytes to send."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Read:
    """Bytes to read, all of them inside the export and no more than MAX_READ."""

    request: Request


@dataclass(frozen=True, slots=True)
class Look:
    """Where there are zeros is asked, inside the export. `one`: the first extent is enough."""

    request: Request
    one: bool


@dataclass(frozen=True, slots=True)
class End:
    """The client is done, or has to be."""


Event: TypeAlias = Say | Read | Look | End


class _Phase(enum.Enum):
    FLAGS = enum.auto()
    OPTIONS = enum.auto()
    REQUESTS = enum.auto()
    ENDED = enum.auto()


_WRITES: Final = frozenset({Command.WRITE, Command.TRIM, Command.WRITE_ZEROES})


class Session:
    """See the module. The greeting is the first thing to say: `nbd_protocol.GREETING`."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self._phase = _Phase.FLAGS
        self._buffer = bytearray()
        self._passed_over = 0  # bytes that are still to come and that nobody wants
        self._zeroes = True
        self._structured = False
        self._allocation = False

    @property
    def reads(self) -> bool:
        """Whether the options are over."""
        return self._phase is _Phase.REQUESTS

    def receive(self, data: bytes) -> list[Event]:
        """What comes of these bytes. After an End nothing does."""
        self._buffer += data
        events: list[Event] = []
        try:
            while (step := _PHASES[self._phase](self)) is not None:
                events += step
        except Malformed:
            self._phase = _Phase.ENDED
            events.append(End())
        return events

    def answered(self, request: Request, data: bytes) -> bytes:
        """What to send for a Read. Raises ValueError for less or more than was asked for."""
        if len(data) != request.length:
            raise ValueError("an answer has as many bytes as were asked for")
        if self._structured:
            return nbd.structured_data(request, data)
        return nbd.simple_reply(request, data=data)

    def looked(self, request: Request, extents: Iterable[tuple[int, bool]]) -> bytes:
        """What to send for a Look: lengths in bytes, at least one, and whether each is zeros."""
        return nbd.block_status(request, extents)

    def failed(self, request: Request, error: NbdError) -> bytes:
        """What to send instead."""
        if self._structured:
            return nbd.structured_error(request, error)
        return nbd.simple_reply(request, error)

    # --- phases: each gives its events, or None where bytes are missing

    def _flags(self) -> list[Event] | None:
        data = self._take(4)
        if data is None:
            return None
        flags = int.from_bytes(data, "big")
        if flags & ~nbd.CLIENT_FLAGS:
            raise Malformed("the client has flags that there are not")
        self._zeroes = not flags & nbd.NO_ZEROES
        self._phase = _Phase.OPTIONS
        return []

    def _option(self) -> list[Event] | None:
        if len(self._buffer) < nbd.OPTION.size:
            return None
        option, length = nbd.option_header(bytes(self._buffer[: nbd.OPTION.size]))
        whole = self._take(nbd.OPTION.size + length)
        if whole is None:
            return None
        answer = _OPTIONS.get(option)
        if answer is None:
            return [_reply(option, Reply.UNSUPPORTED)]
        data = whole[nbd.OPTION.size :]
        try:
            return answer(self, option, data)
        except Malformed:
            if option == Option.EXPORT_NAME:
                raise
            return [_reply(option, Reply.INVALID)]

    def _request(self) -> list[Event] | None:
        if self._passed_over:
            gone = min(self._passed_over, len(self._buffer))
            del self._buffer[:gone]
            self._passed_over -= gone
        data = self._take(nbd.REQUEST.size)
        if data is None:
            return None
        request = nbd.parse_request(data)
        if request.command == Command.DISC:
            self._phase = _Phase.ENDED
            return [End()]
        if request.command == Command.WRITE:
            if request.length > nbd.MAX_READ:
                raise Malformed("more is written than a request may carry")
            self._passed_over = request.length
        return [self._asked(request)]

    def _ended(self) -> None:
        self._buffer.clear()

    def _take(self, length: int) -> bytes | None:
        if len(self._buffer) < length:
            return None
        data = bytes(self._buffer[:length])
        del self._buffer[:length]
        return data

    # --- requests

    def _asked(self, request: Request) -> Event:
        inside = 0 < request.length <= self._export.size - request.offset
        if request.command in _WRITES:
            return Say(self.failed(request, NbdError.PERM))
        if request.command == Command.READ and inside and request.length <= nbd.MAX_READ:
            return Read(request)
        if request.command == Command.BLOCK_STATUS and inside and self._allocation:
            return Look(request, bool(request.flags & nbd.REQ_ONE))
        if request.command == Command.FLUSH:  # nothing is ever written, so everything is
            return Say(nbd.simple_reply(request))
        return Say(self.failed(request, NbdError.INVAL))

    # --- options

    def _export_name(self, _option: int, data: bytes) -> list[Event]:
        if not self._is_ours(data.decode("utf-8", "replace")):
            raise Malformed("there is no such export")  # this option has no other answer
        self._phase = _Phase.REQUESTS
        return [
            Say(nbd.export_name_reply(self._export, structured=self._structured, zeroes=self._zeroes)),
        ]

    def _abort(self, option: int, _data: bytes) -> list[Event]:
        self._phase = _Phase.ENDED
        return [_reply(option, Reply.ACK), End()]

    def _list(self, option: int, data: bytes) -> list[Event]:
        if data:
            raise Malformed("a list is asked for without data")
        return [_reply(option, Reply.SERVER, nbd.server_entry(self._export)), _reply(option, Reply.ACK)]

    def _info(self, option: int, data: bytes) -> list[Event]:
        if not self._is_ours(nbd.chosen_export(data)):
            return [_reply(option, Reply.UNKNOWN)]
        told = nbd.export_information(self._export, structured=self._structured)
        if option == Option.GO:
            self._phase = _Phase.REQUESTS
        return [*(_reply(option, Reply.INFO, one) for one in told), _reply(option, Reply.ACK)]

    def _structured_reply(self, option: int, data: bytes) -> list[Event]:
        if data:
            raise Malformed("structured replies are asked for without data")
        self._structured = True
        return [_reply(option, Reply.ACK)]

    def _contexts(self, option: int, data: bytes) -> list[Event]:
        name, queries = nbd.meta_queries(data)
        if not self._structured:
            raise Malformed("contexts go with structured replies only")
        if not self._is_ours(name):
            return [_reply(option, Reply.UNKNOWN)]
        setting = option == Option.SET_META_CONTEXT
        wanted = nbd.ALLOCATION in queries or (not setting and (not queries or "base:" in queries))
        if setting:
            self._allocation = wanted
        told: list[Event] = [Say(nbd.context_reply(option))] if wanted else []
        return [*told, _reply(option, Reply.ACK)]

    def _is_ours(self, name: str) -> bool:
        return name in ("", self._export.name)


def _reply(option: int, reply: Reply, data: bytes = b"") -> Say:
    return Say(nbd.option_reply(option, reply, data))


_PHASES: Final[Mapping[_Phase, Callable[[Session], list[Event] | None]]] = MappingProxyType(
    {
        _Phase.FLAGS: Session._flags,
        _Phase.OPTIONS: Session._option,
        _Phase.REQUESTS: Session._request,
        _Phase.ENDED: Session._ended,
    }
)
_OPTIONS: Final[Mapping[int, Callable[[Session, int, bytes], list[Event]]]] = MappingProxyType(
    {
        Option.EXPORT_NAME: Session._export_name,
        Option.ABORT: Session._abort,
        Option.LIST: Session._list,
        Option.INFO: Session._info,
        Option.GO: Session._info,
        Option.STRUCTURED_REPLY: Session._structured_reply,
        Option.LIST_META_CONTEXT: Session._contexts,
        Option.SET_META_CONTEXT: Session._contexts,
    }
)
