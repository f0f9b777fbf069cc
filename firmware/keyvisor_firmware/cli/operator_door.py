"""The operator's side of the operator's door: one request, and its answer checked. Knows no verb."""

from __future__ import annotations

import socket
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from keyvisor_firmware.errors import FirmwareError
from keyvisor_guest.wire.messages import OPERATOR_ROUTES, Message, Problem, Route

MAX_ANSWER: Final = 1 << 27  # bytes: an audit log as long as the configuration allows
_SECONDS: Final = 30.0

_Answer = TypeVar("_Answer", bound=Message)


class DoorUnusable(FirmwareError):
    """Nobody answers at the operator's door, or not as they should."""


def ask(path: Path, name: str, answer: type[_Answer], body: Message | None = None) -> _Answer:
    """Call the route called `name` of the door at `path`. Raises DoorUnusable."""
    route = next(route for route in OPERATOR_ROUTES if route.name == name)
    status, text = _request(path, route, None if body is None else body.model_dump_json().encode())
    try:
        if status == 200:
            return answer.model_validate_json(text)
        raise DoorUnusable(Problem.model_validate_json(text).message)
    except ValidationError:
        raise DoorUnusable(
            f"`{path}` gave an answer that is none: is the daemon of another version?"
        ) from None


def _request(path: Path, route: Route, body: bytes | None) -> tuple[int, bytes]:
    connection = _UnixConnection(path)
    try:
        connection.request(route.method, route.path, body)
        response = connection.getresponse()
        text = response.read(MAX_ANSWER + 1)
    except (FileNotFoundError, ConnectionRefusedError):
        raise DoorUnusable(f"nobody listens at `{path}`: start the firmware with `keyvisor up`") from None
    except PermissionError:
        raise DoorUnusable(
            f"no permission to open `{path}`: it serves the user who started `keyvisor up`"
        ) from None
    except (OSError, HTTPException) as error:
        raise DoorUnusable(f"`{path}` does not answer ({error}): see what `keyvisor up` prints") from None
    finally:
        connection.close()
    if len(text) > MAX_ANSWER:
        raise DoorUnusable(f"the answer of `{path}` is longer than {MAX_ANSWER} bytes")
    return response.status, text


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("keyvisor", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(str(self._path))
