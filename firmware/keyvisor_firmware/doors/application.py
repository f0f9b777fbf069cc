"""A door's application: its table of routes, served by an object that has a method for each route's name.

The methods work on values and block; they run in threads, and what they raise becomes a Problem. Knows no route by
name and no socket.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as HttpRoute

from keyvisor_firmware.audit import Log
from keyvisor_firmware.doors.bodies import read_body
from keyvisor_firmware.doors.openapi import openapi
from keyvisor_firmware.doors.problems import INTERNAL, problem_of
from keyvisor_firmware.errors import Malformed
from keyvisor_guest.wire.messages import GUEST_NAME, INDEX, Message, Route
from keyvisor_hsm.cards import Apqn

Endpoint = Callable[[Request], Awaitable[Response]]


def application(door: str, routes: tuple[Route, ...], handlers: object, log: Log) -> Starlette:
    """The application of the door called `door`. Raises AttributeError where a route has no handler."""
    table = [
        HttpRoute(route.path, _endpoint(route, getattr(handlers, route.name), log), methods=[route.method])
        for route in routes
    ]
    description = _description(door, routes)

    async def describe(_request: Request) -> Response:
        return Response(description, media_type="application/json")

    async def unknown(_request: Request, error: Exception) -> Response:
        return _refusal(error, log)

    app = Starlette(
        routes=[*table, HttpRoute("/openapi.json", describe, methods=["GET"])],
        exception_handlers={HTTPException: unknown},
    )
    app.router.redirect_slashes = False
    return app


@functools.cache
def _description(door: str, routes: tuple[Route, ...]) -> bytes:
    """As JSON. Every guest has a door, and all of them the same description: it takes longer than all else of a door."""
    return json.dumps(openapi(door, routes)).encode()


def _endpoint(route: Route, handler: Callable[..., Message], log: Log) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        try:
            arguments = {name: _PARAMETERS[name](text) for name, text in request.path_params.items()}
            body = await read_body(request, route.body)
            if body is not None:
                arguments["body"] = body
            answer = await run_in_threadpool(handler, **arguments)
        except Exception as error:  # whatever it is, the door answers
            return _refusal(error, log)
        return Response(answer.model_dump_json(), media_type="application/json")

    return endpoint


def _refusal(error: Exception, log: Log) -> Response:
    known = problem_of(error)
    if known is None:
        log.warning("internal error", exc_info=error)
    status, problem = known or INTERNAL
    return Response(problem.model_dump_json(), status, media_type="application/json")


def _name(text: str) -> object:
    if re.fullmatch(GUEST_NAME, text) is None or text.endswith("\n"):
        raise Malformed(
            "the path names no guest: 1 to 31 of a-z, 0-9 and -, the first one no -, as in `payments-1`"
        )
    return text


def _apqn(text: str) -> object:
    try:
        return Apqn.parse(text)
    except ValueError:
        raise Malformed("the path names no HSM: write card.domain in hex, as in `03.0011`") from None


def _index(text: str) -> object:
    if re.fullmatch(INDEX, text, re.ASCII) is None or text.endswith("\n"):
        raise Malformed("the path names no secret: write its index, as in `0`")
    return int(text)


_PARAMETERS: Final[dict[str, Callable[[str], object]]] = {"name": _name, "apqn": _apqn, "index": _index}
