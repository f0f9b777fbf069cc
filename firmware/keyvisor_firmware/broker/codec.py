"""Calls and replies between bytes and values, driven by the signatures of the calls table (pkcs11-rpc.md, 3 to 5).

A body is the call's id, its signature, its arguments; nothing may be left behind them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from keyvisor_firmware.broker.attributes import pack_answers, read_attributes, read_query
from keyvisor_firmware.broker.calls import BY_ID, Call
from keyvisor_firmware.broker.cursor import Cursor
from keyvisor_firmware.broker.errors import Failed, ProtocolError
from keyvisor_firmware.broker.limits import DEFAULTS, Limits
from keyvisor_firmware.broker.mechanism_parameters import Encoding, read_mechanism
from keyvisor_hsm.cryptoki import CKR

_HEAD: Final = struct.Struct(">II")  # id, length of the signature
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")

# Elements of two letters first: `a` and `f` alone are none.
_ELEMENTS: Final = ("ay", "au", "aA", "fy", "fu", "fA", "y", "u", "v", "s", "z", "M", "P")


@dataclass(frozen=True, slots=True)
class Needed:
    """In the place of an array: the caller gave no room, or too little; so much is needed."""

    size: int


def elements(signature: str) -> tuple[str, ...]:
    """`uMuayfy` -> ("u", "M", "u", "ay", "fy"). Raises ValueError for an unknown letter."""
    found = []
    while signature:
        element = next((e for e in _ELEMENTS if signature.startswith(e)), None)
        if element is None:
            raise ValueError(f"`{signature}` begins with no element of a signature")
        found.append(element)
        signature = signature[len(element) :]
    return tuple(found)


def _read_byte_array(cursor: Cursor) -> bytes | None:
    # The length follows even where no bytes do (section 4.4, the trap of the 0.24.1 peer server).
    if cursor.u8():
        return cursor.sized_bytes()
    cursor.u32()
    return None


_LABEL: Final = 32  # bytes of a token's label, the one text that requests hold


def _read_padded(cursor: Cursor) -> bytes:
    text = cursor.sized_bytes()
    if text is None or len(text) != _LABEL:
        raise ProtocolError(f"a label has {len(text or b'')} bytes instead of {_LABEL}")
    return text


def _read_terminated(cursor: Cursor) -> bytes:
    # The 0.24.1 client looks for a NUL behind the padded label, where there is none: what it found there is cut off.
    return (cursor.sized_bytes() or b"")[:_LABEL].ljust(_LABEL)


def _read_version(cursor: Cursor) -> tuple[int, int]:
    return cursor.u8(), cursor.u8()


def _read_ulong_array(cursor: Cursor) -> tuple[int, ...] | None:
    if cursor.u8():
        return cursor.ulongs(cursor.limits.mechanisms)
    cursor.u32()
    return None


_READERS: Final[dict[str, Callable[[Cursor], Any]]] = {
    "y": Cursor.u8,
    "u": Cursor.u64,
    "v": _read_version,
    "s": _read_padded,
    "z": _read_terminated,
    "ay": _read_byte_array,
    "au": _read_ulong_array,
    "fy": Cursor.u32,
    "fu": Cursor.u32,
    "aA": read_attributes,
}


def request_prefix(call: Call) -> bytes:
    """What the body of every request of a call begins with: id and signature."""
    return _HEAD.pack(call.id, len(call.request)) + call.request.encode()


def reply_prefix(call: Call) -> bytes:
    """What the body of every reply to a call begins with, where it went well: id and signature."""
    return _HEAD.pack(call.id, len(call.reply)) + call.reply.encode()


_BEHIND_MECHANISM: Final = {"uM": 0, "uMu": 8}  # bytes, in the calls that begin an operation


def _request_readers(call: Call, encoding: Encoding) -> tuple[Callable[[Cursor], Any], ...]:
    behind = _BEHIND_MECHANISM.get(call.request) if call.name.endswith("Init") else None

    def read_m(cursor: Cursor) -> Any:
        return read_mechanism(cursor, encoding, behind)

    def read_wanted(cursor: Cursor) -> Any:
        return read_query(cursor, nesting=encoding is not Encoding.UP_TO_0_24)

    readers = {**_READERS, "M": read_m, "fA": read_wanted}
    return tuple(readers[element] for element in elements(call.request))


_REQUESTS: Final = {
    (call.id, encoding): (call, request_prefix(call), readers)
    for call in BY_ID.values()
    for encoding in Encoding
    for readers in (_request_readers(call, encoding),)
}


def read_id(body: bytes) -> int:
    """The id that a request's body begins with. Raises ProtocolError."""
    return Cursor(body).u32()


def read_request(body: bytes, encoding: Encoding, limits: Limits = DEFAULTS) -> tuple[Call, tuple[Any, ...]]:
    """The call and its arguments. Raises ProtocolError; Failed for what is well formed and cannot be taken."""
    try:
        call, prefix, readers = _REQUESTS[read_id(body), encoding]
    except KeyError:
        raise Failed(CKR.FUNCTION_NOT_SUPPORTED, "the call is unknown") from None
    if not body.startswith(prefix):
        raise ProtocolError(f"{call.name} does not come with the signature `{call.request}`")
    cursor = Cursor(body, len(prefix), limits)
    values = tuple([read(cursor) for read in readers])
    cursor.end()
    return call, values


def _pack_byte_array(value: bytes | Needed) -> bytes:
    if isinstance(value, Needed):
        return b"\0" + _U32.pack(value.size)
    return b"\1" + _U32.pack(len(value)) + value


def _pack_ulong_array(value: Sequence[int] | Needed) -> bytes:
    if isinstance(value, Needed):
        return b"\0" + _U32.pack(value.size)
    return b"\1" + _U32.pack(len(value)) + struct.pack(f">{len(value)}Q", *value)


def _pack_string(value: bytes) -> bytes:
    return _U32.pack(len(value)) + value


def _pack_updated_parameter(_value: None) -> bytes:
    # No mechanism that travels has a parameter that the module writes to, so none comes back.
    return b"\0"


_WRITERS: Final[dict[str, Callable[[Any], bytes]]] = {
    "y": lambda value: bytes((value,)),
    "u": _U64.pack,
    "v": bytes,
    "s": _pack_string,
    "ay": _pack_byte_array,
    "au": _pack_ulong_array,
    "aA": pack_answers,
    "P": _pack_updated_parameter,
}

_REPLIES: Final = {
    call.id: (reply_prefix(call), tuple(_WRITERS[element] for element in elements(call.reply)))
    for call in BY_ID.values()
}


def pack_reply(call: Call, *values: Any) -> bytes:
    """The body of a reply that went well; one value per element of the call's reply signature."""
    prefix, writers = _REPLIES[call.id]
    return prefix + b"".join([write(value) for write, value in zip(writers, values, strict=True)])


def pack_error(rv: int) -> bytes:
    """The body of a reply that carries a CK_RV other than CKR_OK."""
    return _HEAD.pack(0, 1) + b"u" + _U64.pack(rv)
