"""What the daemon and a gate say to each other, as JSON over a socket that keeps messages apart.

The daemon sends the whole picture of the guest's HSMs each time it changes; the gate answers which of them it
could not make ready. On a second socket the gate only tells: what it refused, and that it leaves because it is idle.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final, TypeVar

from keyvisor_firmware.broker.errors import GateEnded, GateError

MAX_MESSAGE: Final = 1 << 17  # bytes

_Told = TypeVar("_Told")


@dataclass(frozen=True, slots=True)
class PartitionPlace:
    """Where a key partition is, and its PINs."""

    path: str
    user_pin: str = field(repr=False)
    so_pin: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class HsmPicture:
    """One attached HSM. `word` is that of the state page; `partition` is given where it is associated."""

    apqn: str
    slot: int
    index: int
    mode: str
    generation: str
    serial: str
    firmware: tuple[int, int]
    word: int
    binding: int
    partition: PartitionPlace | None


@dataclass(frozen=True, slots=True)
class Picture:
    """All HSMs of the guest."""

    hsms: tuple[HsmPicture, ...]


@dataclass(frozen=True, slots=True)
class Ready:
    """The gate's answer: per HSM that could not be made ready, why."""

    failed: dict[str, str]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The gate refused a call."""

    at: str
    apqn: str | None
    call: str
    code: str
    reason: str


def send(channel: socket.socket, message: Picture | Ready | Refusal, flags: int = 0) -> None:
    """Send one message. Raises OSError."""
    channel.send(json.dumps(asdict(message), separators=(",", ":")).encode(), flags)


def receive_picture(channel: socket.socket) -> Picture | None:
    """The next picture; None at the end."""
    data = channel.recv(MAX_MESSAGE)
    return _picture(json.loads(data)) if data else None


def receive_ready(channel: socket.socket) -> Ready:
    """The gate's answer. Raises GateEnded if it is gone, GateError if it does not answer in the channel's time."""
    try:
        data = channel.recv(MAX_MESSAGE)
    except TimeoutError:
        raise GateError("the gate does not answer in time") from None
    except OSError as error:
        raise GateEnded(f"the gate is gone: {error}") from None
    if not data:
        raise GateEnded("the gate ended")
    return _told(data, _ready)


def receive_refusal(channel: socket.socket) -> Refusal | None:
    """A refusal that is already there, without waiting; None at the end.

    Raises BlockingIOError if there is none, OSError, GateError for what is no refusal.
    """
    data = channel.recv(MAX_MESSAGE, socket.MSG_DONTWAIT)
    return _told(data, _refusal) if data else None


def _told(data: bytes, read: Callable[[dict[str, Any]], _Told]) -> _Told:
    """A gate works on a guest's bytes, so the daemon takes nothing from it on trust, not even its form."""
    try:
        return read(json.loads(data))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise GateError("the gate says what no gate says") from None


def _ready(value: dict[str, Any]) -> Ready:
    return Ready({str(apqn): str(why) for apqn, why in value["failed"].items()})


def _refusal(value: dict[str, Any]) -> Refusal:
    apqn = value["apqn"]
    return Refusal(
        at=str(value["at"]),
        apqn=None if apqn is None else str(apqn),
        call=str(value["call"]),
        code=str(value["code"]),
        reason=str(value["reason"]),
    )


def _picture(value: dict[str, Any]) -> Picture:
    return Picture(tuple(_hsm(one) for one in value["hsms"]))


def _hsm(value: dict[str, Any]) -> HsmPicture:
    place = value.pop("partition")
    major, minor = value.pop("firmware")
    return HsmPicture(
        **value, firmware=(major, minor), partition=None if place is None else PartitionPlace(**place)
    )
