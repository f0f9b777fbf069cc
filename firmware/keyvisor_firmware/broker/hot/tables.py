"""The calls table as the hot loop reads it: how the arguments of a call travel, and what it begins and ends (hot_loop.c).

Made from the calls table at start; a call without a shape is always answered the Python way.
"""

from __future__ import annotations

import enum
import struct
from array import array
from typing import Final

from keyvisor_firmware.broker.calls import CALLS, Call, Role
from keyvisor_firmware.broker.codec import reply_prefix, request_prefix
from keyvisor_firmware.broker.operations import BEGINS, ENDS
from keyvisor_firmware.broker.slow_calls import WITH_PRIVATE_KEY

ROWS: Final = 90  # ids of calls, 0 among them


class Shape(enum.IntEnum):
    """How the arguments behind the session travel, and so how the module is called."""

    COLD_CALL = 0
    MEMO = 1  # only as bytes that were decided about before
    IN_OUT = 2
    OUT = 3
    IN = 4
    IN_IN = 5
    RANDOM = 6


_D, _R = Role.DATA, Role.ROOM

# By signature and roles; what a chapter of the broker answers has a shape only where it is named here.
_SHAPES: Final = {
    ("uayfy", (Role.SESSION, _D, _R)): Shape.IN_OUT,
    ("ufy", (Role.SESSION, _R)): Shape.OUT,
    ("uay", (Role.SESSION, _D)): Shape.IN,
    ("uayay", (Role.SESSION, _D, _D)): Shape.IN_IN,
}
_DATA_CALLS: Final = frozenset(
    f"C_{operation}{how}"
    for operation in ("Encrypt", "Decrypt", "Digest", "Sign", "Verify")
    for how in ("", "Update", "Final")
)
MEMO_CALLS: Final = frozenset(
    (
        "C_GetSessionInfo",
        "C_GetAttributeValue",
        "C_EncryptInit",
        "C_DecryptInit",
        "C_DigestInit",
        "C_SignInit",
        "C_VerifyInit",
    )
)


def shape_of(call: Call) -> Shape:
    """The shape of a call."""
    if call.name in MEMO_CALLS:
        return Shape.MEMO
    if call.name == "C_GenerateRandom":
        return Shape.RANDOM
    if call.name in _DATA_CALLS:
        return _SHAPES[call.request, call.roles]
    return Shape.COLD_CALL


_ROW: Final = struct.Struct("=6Q24s24s")
ROW_SIZE: Final = _ROW.size


def _row(call: Call) -> bytes:
    prefix, reply = request_prefix(call), reply_prefix(call)
    begins, ends = BEGINS.get(call.name, 0), ENDS.get(call.name, 0)
    heavy = call.name in WITH_PRIVATE_KEY
    return _ROW.pack(shape_of(call), begins, ends, heavy, len(prefix), len(reply), prefix, reply)


def _rows() -> array[int]:
    rows = [bytes(_ROW.size)] * ROWS
    for call in CALLS:
        rows[call.id] = _row(call)
    return array("Q", b"".join(rows))


TABLE: Final = _rows()
