"""Requests' bodies: bounded before they are kept, and read strictly as the message that their route takes."""

from __future__ import annotations

from typing import Final, TypeVar

from pydantic import ValidationError
from starlette.requests import Request

from keyvisor_firmware.doors.problems import TooLarge
from keyvisor_firmware.errors import Malformed
from keyvisor_guest.wire.messages import (
    MAX_KEY_DATA,
    MAX_KEY_PARAMETER,
    MAX_POLICY,
    MAX_REQUEST,
    AddSecret,
    ApplyPlan,
    Associate,
    Attest,
    Message,
    PolicyText,
    RevokeHostKey,
    UseProtectedKey,
)
from keyvisor_guest.wire.storage_messages import (
    MAX_ACCESS,
    Allocate,
    ByHandle,
    ConvertPages,
    CreateCpu,
    CreateGuest,
    FreeFrames,
    InitStorage,
    MapPages,
    QueryStorage,
    ReadStorage,
    SetParameters,
    UnmapPages,
    Unpack,
    WriteHostStorage,
    WriteStorage,
)

M = TypeVar("M", bound=Message)

_ROOM: Final = 1 << 16  # bytes for all else that a body says


def _base64(length: int) -> int:
    """Base64 with a line break, two characters in JSON, behind every 76."""
    characters = -(-length // 3) * 4
    return characters + -(-characters // 76) * 2


# JSON may spell one byte of text as six (`\u0000`).
LIMITS: Final[dict[type[Message], int]] = {
    WriteHostStorage: _base64(MAX_ACCESS) + _ROOM,
    WriteStorage: _base64(MAX_ACCESS) + _ROOM,
    AddSecret: _base64(MAX_REQUEST) + _ROOM,
    PolicyText: 6 * MAX_POLICY + _ROOM,
    ApplyPlan: 6 * MAX_POLICY + 8 * _ROOM,
    Associate: _ROOM,
    RevokeHostKey: _ROOM,
    UseProtectedKey: _base64(MAX_KEY_DATA) + 4 * _base64(MAX_KEY_PARAMETER) + _ROOM,
    Attest: _base64(MAX_REQUEST) + _ROOM,
    **dict.fromkeys(
        (
            QueryStorage,
            InitStorage,
            CreateGuest,
            CreateCpu,
            ByHandle,
            SetParameters,
            Unpack,
            ConvertPages,
            Allocate,
            FreeFrames,
            MapPages,
            UnmapPages,
            ReadStorage,
        ),
        _ROOM,
    ),
}


async def read_body(request: Request, message: type[M] | None) -> M | None:
    """The body as `message`. Raises TooLarge; Malformed with all findings, none of which repeats what came."""
    text = await _bounded(request, 0 if message is None else LIMITS[message])
    if message is None:
        return None
    try:
        return message.model_validate_json(text)
    except ValidationError as error:
        raise Malformed(f"the body is not what `{message.__name__}` is", _findings(error)) from None


async def _bounded(request: Request, limit: int) -> bytes:
    chunks = []
    length = 0
    async for chunk in request.stream():
        length += len(chunk)
        if length > limit:
            raise TooLarge(f"a body of this request has at most {limit} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _findings(error: ValidationError) -> list[str]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg'][:1].lower()}{one['msg'][1:]}"
        for one in found
    ]
