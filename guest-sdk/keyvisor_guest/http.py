"""One HTTP call through a door: the standard library's client over a Unix socket, driven by the table of routes.

Every call has its own connection; an answer is bounded, timed and checked against its message before anybody
sees it. Knows no route by name: the clients do.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from keyvisor_guest.errors import DoorBroken, DoorClosed, NotRunning, Refused
from keyvisor_guest.wire.messages import Message, Problem, Route

__all__ = ["MAX_ANSWER", "Door"]

MAX_ANSWER = 1 << 25  # bytes: every HSM that can be (256 cards of 256 domains) with its configuration data
TIMEOUT = 30.0  # seconds that the door may be silent

_Answer = TypeVar("_Answer", bound=Message)


class Door:
    """A door and its table of routes. `nobody` is what to say where the socket is not there."""

    def __init__(
        self,
        path: Path,
        routes: Iterable[Route],
        *,
        nobody: str,
        timeout: float = TIMEOUT,
        max_answer: int = MAX_ANSWER,
    ) -> None:
        self.path = path
        self._routes = {route.name: route for route in routes}
        self._nobody = nobody
        self._timeout = timeout
        self._max_answer = max_answer

    def call(
        self, name: str, answer: type[_Answer], body: Message | None = None, /, **parameters: str
    ) -> _Answer:
        """Call the route called `name` and give back its answer.

        `answer` and the type of `body` are the route's own; `parameters` fill the braces of its path. Raises
        Refused, NotRunning, DoorClosed, DoorBroken; TypeError for a call that is not in the table.
        """
        route = self._routes[name]
        if route.answer is not answer or (type(body) if body is not None else None) is not route.body:
            raise TypeError(f"route `{name}` takes {route.body} and answers {route.answer}")
        path = route.path.format_map({key: quote(value, safe="") for key, value in parameters.items()})
        status, text = self._exchange(
            route.method, path, body.model_dump_json().encode() if body is not None else None
        )
        if 200 <= status < 300:
            return self._read(answer, text)
        raise self._refusal(status, text)

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = _UnixConnection(self.path, self._timeout)
        try:
            self._connect(connection)
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, body, headers)
            with connection.getresponse() as response:
                return response.status, self._bounded(response)
        except TimeoutError:
            raise DoorBroken(
                f"no answer from `{self.path}` within {self._timeout:g} s: see what `keyvisor up` prints"
            ) from None
        except (OSError, HTTPException) as error:
            raise DoorBroken(
                f"the answer of `{self.path}` broke off ({type(error).__name__}): see what `keyvisor up` prints"
            ) from error
        finally:
            connection.close()

    def _connect(self, connection: HTTPConnection) -> None:
        try:
            connection.connect()
        except (FileNotFoundError, NotADirectoryError):
            raise NotRunning(self._nobody) from None
        except ConnectionRefusedError:
            raise NotRunning(
                f"nobody listens at `{self.path}`: the firmware does not run, start it with `keyvisor up`"
            ) from None
        except PermissionError:
            raise DoorClosed(
                f"no permission to open `{self.path}`: it serves the user who started `keyvisor up`"
            ) from None

    def _bounded(self, response: HTTPResponse) -> bytes:
        text = response.read(self._max_answer + 1)
        if len(text) > self._max_answer:
            raise DoorBroken(f"the answer of `{self.path}` is longer than {self._max_answer} bytes")
        if response.length:  # a read with a limit says nothing of an answer that ended early
            raise DoorBroken(f"the answer of `{self.path}` broke off: see what `keyvisor up` prints")
        return text

    def _read(self, answer: type[_Answer], text: bytes) -> _Answer:
        try:
            return answer.model_validate_json(text)
        except ValidationError as error:
            raise DoorBroken(
                f"the answer of `{self.path}` is no {answer.__name__} ({_first(error)}): "
                "is the firmware of another version?"
            ) from None

    def _refusal(self, status: int, text: bytes) -> Refused | DoorBroken:
        try:
            problem = Problem.model_validate_json(text)
        except ValidationError:
            return DoorBroken(
                f"`{self.path}` answered HTTP {status} and no reason: see what `keyvisor up` prints"
            )
        return Refused(problem.kind, problem.code, problem.message, problem.findings, problem.handle)


class _UnixConnection(HTTPConnection):
    """An HTTP connection whose way is a Unix socket; the host's name is for the header only."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("keyvisor", timeout=timeout)
        self._path = path
        self._silence = timeout

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._silence)
        self.sock.connect(str(self._path))


def _first(error: ValidationError) -> str:
    """Where the first finding is and what it is, without the input: an answer's values are not for error texts."""
    finding = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in finding['loc']) or 'the whole'}: {finding['msg'].lower()}"
