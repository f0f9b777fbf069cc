"""Frames of the p11-kit RPC: 12 bytes of head, options, body (pkcs11-rpc.md, section 2). All numbers big-endian."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from keyvisor_firmware.broker.errors import ProtocolError
from keyvisor_firmware.broker.limits import DEFAULTS, Limits

_HEAD: Final = struct.Struct(">III")
HEAD_LENGTH: Final = _HEAD.size

OUR_VERSION: Final = 2


@dataclass(frozen=True, slots=True)
class Head:
    """`code` is the client's number for the call; `options` and `body` are lengths in bytes."""

    code: int
    options: int
    body: int


def parse_head(data: bytes, limits: Limits = DEFAULTS) -> Head:
    """Read 12 bytes. Raises ProtocolError for code 0 and for lengths past the limits."""
    code, options, body = _HEAD.unpack(data)
    if code == 0:
        raise ProtocolError("a frame has the code 0")
    if options > limits.frame_options:
        most = limits.frame_options
        raise ProtocolError(f"a frame announces {options} bytes of options, {most} at most are taken")
    if body > limits.frame_body:
        raise ProtocolError(f"a frame announces {body} bytes, {limits.frame_body} at most are taken")
    return Head(code, options, body)


def frame(code: int, body: bytes) -> bytes:
    """A reply to the call `code`: no options."""
    return _HEAD.pack(code, 0, len(body)) + body


def negotiate(theirs: int) -> int:
    """The version to answer to a client's first byte: the lower of theirs and ours (section 1)."""
    return min(theirs, OUR_VERSION)
