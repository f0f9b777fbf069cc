"""The return codes of attestation, and what they mean to a person (formats, C.6). They are not those of add-secret.

Knows no request.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["MEANINGS", "AttestCode", "Meaning"]


class AttestCode(enum.IntEnum):
    """rc of the call attest, only those that refuse."""

    CONTINUATION_WRONG = 0x0101
    USER_DATA_WRONG = 0x0102
    REQUEST_NOT_ACCESSIBLE = 0x0103
    MEASUREMENT_NOT_ACCESSIBLE = 0x0104
    ADDITIONAL_NOT_ACCESSIBLE = 0x0105
    VERSION_UNSUPPORTED = 0x0106
    LENGTH_WRONG = 0x0107
    HOST_KEYS_WRONG = 0x0108
    SEALED_LENGTH_WRONG = 0x0109
    FLAG_UNSUPPORTED = 0x010A
    ALGORITHM_UNSUPPORTED = 0x010B
    CANNOT_UNSEAL = 0x010C
    MEASUREMENT_LENGTH_WRONG = 0x010D
    ADDITIONAL_LENGTH_WRONG = 0x010E


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code says, and what can be done about it: lower case, no final stop."""

    text: str
    way_out: str


_WHOLE_FILE: Final = "hand over the whole request that the owner made"
_NEW_REQUEST: Final = "the owner has to make a new request"
_ROOM: Final = "make room for the answer"

MEANINGS: Final[Mapping[AttestCode, Meaning]] = MappingProxyType(
    {
        AttestCode.CONTINUATION_WRONG: Meaning("nothing is there to be continued", "ask from the start"),
        AttestCode.USER_DATA_WRONG: Meaning(
            "the user data have a wrong length", "give at most 256 bytes, such as a hash"
        ),
        AttestCode.REQUEST_NOT_ACCESSIBLE: Meaning("the attestation request cannot be read", _WHOLE_FILE),
        AttestCode.MEASUREMENT_NOT_ACCESSIBLE: Meaning("the measurement cannot be written", _ROOM),
        AttestCode.ADDITIONAL_NOT_ACCESSIBLE: Meaning("the additional data cannot be written", _ROOM),
        AttestCode.VERSION_UNSUPPORTED: Meaning(
            "the request's version is not supported", "make one with `keyvisor owner attest create`"
        ),
        AttestCode.LENGTH_WRONG: Meaning("the request's length is wrong", _WHOLE_FILE),
        AttestCode.HOST_KEYS_WRONG: Meaning(
            "the number of host keys is wrong", "make a request for at least one host key"
        ),
        AttestCode.SEALED_LENGTH_WRONG: Meaning("the encrypted area's length is wrong", _NEW_REQUEST),
        AttestCode.FLAG_UNSUPPORTED: Meaning(
            "the request has a flag that is not supported", "make a request without it"
        ),
        AttestCode.ALGORITHM_UNSUPPORTED: Meaning(
            "the measurement's algorithm is not supported", "make a request with HMAC-SHA-512"
        ),
        AttestCode.CANNOT_UNSEAL: Meaning(
            "the request cannot be opened", "make one for this host's key and hand it over unchanged"
        ),
        AttestCode.MEASUREMENT_LENGTH_WRONG: Meaning("the room for the measurement is wrong", _ROOM),
        AttestCode.ADDITIONAL_LENGTH_WRONG: Meaning("the room for the additional data is too small", _ROOM),
    }
)
