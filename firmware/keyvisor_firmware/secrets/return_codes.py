"""The return codes of add, lock and retrieve, and what they mean to a person (formats, B.1 and C.5).

A code says what was refused; the text adds the way out. The number 0109 means one thing to add and another to
retrieve, so that retrieve's has a class of its own. Knows no request and no store.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["MEANINGS", "RETRIEVE_MEANINGS", "Meaning", "RetrieveCode", "ReturnCode", "meaning_of"]


class ReturnCode(enum.IntEnum):
    """rc of an ultravisor call, only those that refuse."""

    NOT_ALLOWED = 0x0101
    LOCKED = 0x0102
    NOT_ACCESSIBLE = 0x0103
    VERSION_UNSUPPORTED = 0x0104
    SIZE_WRONG = 0x0105
    HOST_KEYS_WRONG = 0x0106
    FLAG_UNKNOWN = 0x0107
    CANNOT_DECRYPT = 0x0108
    TYPE_UNSUPPORTED = 0x0109
    LENGTH_WRONG = 0x010A
    STORE_FULL = 0x010B
    COULD_NOT_BE_ADDED = 0x010C
    DUMP_RUNNING = 0x010D
    STORE_EMPTY = 0x010F
    NO_SUCH_INDEX = 0x0110
    NOT_RETRIEVABLE = 0x0111


class RetrieveCode(enum.IntEnum):
    """rc of retrieve where the number means something else there.

    The sources disagree about it (0009 in the tool, 0109 in the kernel): the kernel's, which decides by it.
    """

    BUFFER_TOO_SMALL = 0x0109


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code says, and what can be done about it: lower case, no final stop."""

    text: str
    way_out: str


_NEW_REQUEST: Final = "the owner has to make a new request"
_START_AGAIN: Final = "a new start of the guest has an empty store"

MEANINGS: Final[Mapping[ReturnCode, Meaning]] = MappingProxyType(
    {
        ReturnCode.NOT_ALLOWED: Meaning(
            "this configuration may not alter its secret store", "start the guest in one that may"
        ),
        ReturnCode.LOCKED: Meaning("the secret store is locked", _START_AGAIN),
        ReturnCode.NOT_ACCESSIBLE: Meaning(
            "the request cannot be read", "hand over the whole file that the owner made"
        ),
        ReturnCode.VERSION_UNSUPPORTED: Meaning(
            "the request's version is not supported", "make one with `keyvisor owner request`"
        ),
        ReturnCode.SIZE_WRONG: Meaning(
            "the request's size is wrong", "hand over the whole file that the owner made"
        ),
        ReturnCode.HOST_KEYS_WRONG: Meaning(
            "the number of host keys is wrong", "make a request for at least one host key"
        ),
        ReturnCode.FLAG_UNKNOWN: Meaning("the request has an unknown flag", "make a request without it"),
        ReturnCode.CANNOT_DECRYPT: Meaning(
            "the request cannot be decrypted", "make one for this host's key and hand it over unchanged"
        ),
        ReturnCode.TYPE_UNSUPPORTED: Meaning(
            "the secret's type is not supported", "make a request of a type that `keyvisor owner request` has"
        ),
        ReturnCode.LENGTH_WRONG: Meaning("the secret's length is wrong for its type", _NEW_REQUEST),
        ReturnCode.STORE_FULL: Meaning("the secret store is full", _START_AGAIN),
        ReturnCode.COULD_NOT_BE_ADDED: Meaning("the secret could not be added", _NEW_REQUEST),
        ReturnCode.DUMP_RUNNING: Meaning("a dump of the guest is running", "try again when it has ended"),
        ReturnCode.STORE_EMPTY: Meaning("the secret store is empty", "add a secret first"),
        ReturnCode.NO_SUCH_INDEX: Meaning(
            "no secret has this index", "the list of secrets shows which there are"
        ),
        ReturnCode.NOT_RETRIEVABLE: Meaning(
            "an association secret is never handed out", "associate it with an HSM instead"
        ),
    }
)

RETRIEVE_MEANINGS: Final[Mapping[RetrieveCode, Meaning]] = MappingProxyType(
    {
        RetrieveCode.BUFFER_TOO_SMALL: Meaning(
            "the secret does not fit the buffer", "give it as many bytes as the list of secrets says"
        )
    }
)


def meaning_of(rc: ReturnCode | RetrieveCode) -> Meaning:
    """What the code says to a person."""
    return RETRIEVE_MEANINGS[rc] if isinstance(rc, RetrieveCode) else MEANINGS[rc]
