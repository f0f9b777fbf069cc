"""Requests out of a fuzzer's bytes: each begins as some call does, and its arguments may be right."""

from __future__ import annotations

import struct
from typing import Final

from keyvisor_firmware.broker.calls import CALLS, Role
from keyvisor_firmware.broker.limits import Limits

from ..firmware.broker.encoder import sized, split, u32, u64
from ..firmware.broker.in_process import SLOT_ID
from .source import Source

# Small, so that a fuzzer meets them.
LIMITS: Final = Limits(
    frame_options=64,
    frame_body=4096,
    frame_seconds=5.0,
    attributes=16,
    nesting=2,
    mechanisms=16,
    output=4096,
    attribute_output=256,
    found_objects=16,
    sessions=4,
    objects=8,
    partition_objects=16,
)


def request(source: Source) -> bytes:
    """The right beginning of some call, and arguments that may be right."""
    call = source.choice(CALLS)
    arguments = [
        _element(kind, role, source) for kind, role in zip(split(call.request), call.roles, strict=True)
    ]
    if source.number(8) == 0:
        arguments.append(source.sized())
    return u32(call.id) + sized(call.request.encode()) + b"".join(arguments)


_LENGTHS: Final = (0, 1, 8, 16, 0xFFFF, 0xFFFFFFFF)
_TYPES: Final = (0, 1, 2, 3, 0x11, 0x90, 0x100, 0x161, 0x40000600, 0x40000211, 0x80000000)
_MECHANISMS: Final = (0, 1, 9, 0xD, 0x40, 0x250, 0x1041, 0x1050, 0x1080, 0x1082, 0x1085, 0x1087, 0xFFFFFFFF)


def _element(kind: str, role: Role, source: Source) -> bytes:
    match kind:
        case "u" if role is Role.SLOT:
            return u64(SLOT_ID)
        case "u" if role is Role.SESSION:
            return u64(source.choice((1, 1, 1, 1, 1, 1, 2, 3)))
        case "u" if role is not Role.NUMBER:
            return u64(source.choice((2, 2, 2, 2, 3, 4, 5, 0)))
        case "u":
            return u64(source.number(12))
        case "y":
            return source.take(1) or b"\0"
        case "fy" | "fu":
            return u32(source.choice(_LENGTHS))
        case "ay" if role is Role.MESSAGE_PARAMETER:
            return b"\0" + u32(0)
        case "ay":
            return b"\1" + sized(source.sized()) if source.number(4) else b"\0" + u32(source.number(3))
        case "fA":
            wanted = [(source.choice(_TYPES), source.choice(_LENGTHS)) for _ in range(source.number(20))]
            return u32(len(wanted)) + b"".join(struct.pack(">II", *one) for one in wanted)
        case "aA":
            return _attributes(source, 0)
        case "M":
            parameter = source.choice((b"", u32(0xFFFFFFFF), sized(bytes(16)), sized(source.sized())))
            return u32(source.choice(_MECHANISMS)) + parameter
        case _:
            return sized(source.sized())


def _attributes(source: Source, depth: int) -> bytes:
    count = source.number(20 if depth == 0 else 3)
    return u32(count) + b"".join(_attribute(source, depth) for _ in range(count))


def _attribute(source: Source, depth: int) -> bytes:
    type_ = source.choice(_TYPES)
    head = u32(type_) + b"\1" + u32(source.choice(_LENGTHS))
    match source.number(6):
        case 0:
            return u32(type_) + b"\0"
        case 1:
            return head + source.take(1)
        case 2:
            return head + u64(source.number(256))
        case 3 if depth < 5:
            return head + _attributes(source, depth + 1)
        case 4:
            numbers = source.number(20)
            return head + u32(numbers) + b"".join(u64(source.number(256)) for _ in range(numbers))
        case _:
            return head + sized(source.sized())
