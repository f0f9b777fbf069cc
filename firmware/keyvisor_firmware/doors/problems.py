"""Errors as what a door answers: an HTTP status and a Problem. What is in no row is an internal error and says nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.exceptions import HTTPException

from keyvisor_firmware.errors import (
    AccessRefused,
    ApError,
    AttestationRefused,
    Conflict,
    ImageRefused,
    Malformed,
    NotFound,
    Refused,
    StorageRefused,
)
from keyvisor_firmware.secrets import KeyRefused, UvError
from keyvisor_guest.wire.errors import QueryTooShort
from keyvisor_guest.wire.messages import Problem

INTERNAL: Final = (
    500,
    Problem(kind="http", code=500, message="internal error; the daemon's log has the reason"),
)


class TooLarge(Refused):
    """More bytes than the request may have."""


def problem_of(error: Exception) -> tuple[int, Problem] | None:
    """Status and body for an error that is meant for whoever asked; None for every other."""
    for kind, answer in _ANSWERS.items():
        if isinstance(error, kind):
            return answer(error)
    return None


def _ap(error: ApError) -> tuple[int, Problem]:
    return 409, Problem(kind="ap", code=int(error.code), message=str(error))


def _uv(error: UvError) -> tuple[int, Problem]:
    return 409, Problem(kind="uv", code=int(error.rc), message=str(error))


def _key(error: KeyRefused) -> tuple[int, Problem]:
    return 409, Problem(kind="key", code=int(error.code), message=str(error))


def _image(error: ImageRefused) -> tuple[int, Problem]:
    findings = list(error.findings)
    return 409, Problem(kind="uv", code=int(error.code), message=str(error), findings=findings)


def _storage(error: StorageRefused) -> tuple[int, Problem]:
    return 409, Problem(kind="uv", code=error.code, message=str(error), handle=error.handle)


def _query(error: QueryTooShort) -> tuple[int, Problem]:
    return 409, Problem(kind="uv", code=error.rc, message=str(error))


def _access(error: AccessRefused) -> tuple[int, Problem]:
    return 409, Problem(kind="program", code=int(error.code), message=str(error))


def _attest(error: AttestationRefused) -> tuple[int, Problem]:
    return 409, Problem(kind="attest", code=int(error.code), message=str(error))


def _malformed(error: Malformed) -> tuple[int, Problem]:
    return 422, Problem(kind="http", code=422, message=str(error), findings=list(error.findings))


def _http(error: HTTPException) -> tuple[int, Problem]:
    message = f"{error.detail.lower()}: `GET /openapi.json` shows what this door has"
    return error.status_code, Problem(kind="http", code=error.status_code, message=message)


def _as(status: int) -> Callable[[Exception], tuple[int, Problem]]:
    return lambda error: (status, Problem(kind="http", code=status, message=str(error)))


_ANSWERS: Final[dict[type[Exception], Callable[..., tuple[int, Problem]]]] = {
    ApError: _ap,
    UvError: _uv,
    KeyRefused: _key,
    ImageRefused: _image,
    AttestationRefused: _attest,
    StorageRefused: _storage,
    QueryTooShort: _query,
    AccessRefused: _access,
    Malformed: _malformed,
    NotFound: _as(404),
    Conflict: _as(409),
    TooLarge: _as(413),
    HTTPException: _http,
}
