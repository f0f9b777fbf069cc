"""What the daemon and a gate say to each other, as JSON over a socket that keeps messages apart.

The daemon sends the whole picture of the guest's HSMs each time it changes; the gate answers which of them it
could not make ready. The control points of the guest's policy may be longer than a message: they come beside the
picture as an open file, and the picture names their digest. It may also ask what the module behind an HSM can do.
On a second socket the gate only tells: what it refused, and that it leaves because it is idle.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

from keyvisor_firmware.broker.errors import Because, GateEnded, GateError

MAX_MESSAGE: Final = 1 << 17  # bytes
MAX_BECAUSE: Final = 128  # characters of each text in a Because
MAX_LOOKED_AT: Final = 16  # attributes in its template: with a reason of 4096 characters it is one message

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
    rule: int | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """All HSMs of the guest. `points` is the digest of its policy's control points in hexadecimal digits, empty if it has none.

    An HSM's `rule` is the association rule that the guest holds it through, as its place among the rules that the points
    name (`rules_named`); None where they name it not, and so decide nothing by it.
    """

    hsms: tuple[HsmPicture, ...]
    points: str = ""


@dataclass(frozen=True, slots=True)
class MechanismsOf:
    """The daemon asks what the module behind a slot can do, and the policy lets it."""

    slot: int


class Mechanism(NamedTuple):
    """One CK_MECHANISM_TYPE with its CK_MECHANISM_INFO: each is an unsigned number of 64 bits.

    `allowed`: whether the policy leaves any function of it; its flags are then those that are left.
    """

    type: int
    min_key_size: int
    max_key_size: int
    flags: int
    allowed: bool = True


@dataclass(frozen=True, slots=True)
class Mechanisms:
    """The gate's answer to that, in the order of the types; or why there is none."""

    found: tuple[Mechanism, ...]
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The gate's answer: per HSM that could not be made ready, why."""

    failed: dict[str, str]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The gate refused a call; `because` is there where a control point of the policy refused it."""

    at: str
    apqn: str | None
    call: str
    code: str
    reason: str
    because: Because | None = None


Request = Picture | MechanismsOf  # what the daemon sends; the gate answers Ready, or Mechanisms


def send(channel: socket.socket, message: Ready | Mechanisms | Refusal, flags: int = 0) -> None:
    """Send one message. Raises OSError."""
    channel.send(json.dumps(asdict(message), separators=(",", ":")).encode(), flags)


def ask(channel: socket.socket, request: Request, points: int | None = None) -> None:
    """Send a request; `points` is the descriptor of the file with the control points that a picture names. Raises OSError."""
    data = json.dumps(asdict(request), separators=(",", ":")).encode()
    socket.send_fds(channel, [data], [] if points is None else [points])


def receive_request(channel: socket.socket) -> tuple[Request, int | None] | None:
    """What the daemon wants next, and the descriptor that came with it, which is the caller's to close; None at the end."""
    data, descriptors, _, _ = socket.recv_fds(channel, MAX_MESSAGE, 1)
    if not data:
        return None
    return _request(json.loads(data)), (descriptors[0] if descriptors else None)


def within_bounds(because: Because) -> Because:
    """The same, cut to what travels and is kept: its texts hold what an application sent."""
    looked_at = list(because.template.items())[:MAX_LOOKED_AT]
    return Because(
        point=because.point[:MAX_BECAUSE],
        origin=because.origin[:MAX_BECAUSE],
        mechanism=because.mechanism,
        template={name[:MAX_BECAUSE]: value[:MAX_BECAUSE] for name, value in looked_at},
        rule=None if because.rule is None else because.rule[:MAX_BECAUSE],
    )


def receive_ready(channel: socket.socket) -> Ready:
    """The answer to a picture. Raises GateEnded if the gate is gone, GateError if it does not answer in the channel's time."""
    return _answer(channel, _ready)


def receive_mechanisms(channel: socket.socket) -> Mechanisms:
    """The answer to MechanismsOf. Raises as `receive_ready`."""
    return _answer(channel, _mechanisms)


def _answer(channel: socket.socket, read: Callable[[dict[str, Any]], _Told]) -> _Told:
    try:
        data = channel.recv(MAX_MESSAGE)
    except TimeoutError:
        raise GateError("the gate does not answer in time") from None
    except OSError as error:
        raise GateEnded(f"the gate is gone: {error}") from None
    if not data:
        raise GateEnded("the gate ended")
    return _told(data, read)


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


def _mechanisms(value: dict[str, Any]) -> Mechanisms:
    failed = value["failed"]
    found = tuple(_mechanism(*one) for one in value["found"])
    return Mechanisms(found, None if failed is None else str(failed))


def _mechanism(type_: object, least: object, most: object, flags: object, allowed: object) -> Mechanism:
    if type(allowed) is not bool:
        raise ValueError("neither true nor false")
    return Mechanism(_ulong(type_), _ulong(least), _ulong(most), _ulong(flags), allowed)


def _ulong(value: object) -> int:
    """Raises ValueError for what is no unsigned number of 64 bits."""
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError("no CK_ULONG")
    return value


def _refusal(value: dict[str, Any]) -> Refusal:
    apqn = value["apqn"]
    return Refusal(
        at=str(value["at"]),
        apqn=None if apqn is None else str(apqn),
        call=str(value["call"]),
        code=str(value["code"]),
        reason=str(value["reason"]),
        because=_because(value.get("because")),
    )


def _because(value: Mapping[str, Any] | None) -> Because | None:
    if value is None:
        return None
    mechanism, rule = value["mechanism"], value["rule"]
    return within_bounds(
        Because(
            point=str(value["point"]),
            origin=str(value["origin"]),
            mechanism=None if mechanism is None else _ulong(mechanism),
            template={str(name): str(looked_at) for name, looked_at in value["template"].items()},
            rule=None if rule is None else str(rule),
        )
    )


def _request(value: dict[str, Any]) -> Request:
    return _picture(value) if "hsms" in value else MechanismsOf(**value)


def _picture(value: dict[str, Any]) -> Picture:
    return Picture(tuple(_hsm(one) for one in value["hsms"]), value["points"])


def _hsm(value: dict[str, Any]) -> HsmPicture:
    place = value.pop("partition")
    major, minor = value.pop("firmware")
    return HsmPicture(
        **value, firmware=(major, minor), partition=None if place is None else PartitionPlace(**place)
    )
