"""The AP response codes that an association can be refused with, and what each says to a person.

Numbers and meanings are the architecture's (formats, F.5); the one that is ours says so. Knows no HSM and no guest.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class ApCode(enum.IntEnum):
    """An AP response code other than "done"."""

    NOT_AVAILABLE = 0x01
    DECONFIGURED = 0x03
    BOUND_TO_ANOTHER = 0x09
    CHANGE_IN_PROGRESS = 0x0A
    NOT_BOUND = 0x0B
    BIND_ERROR = 0x30
    NOT_OPEN_TO_ASSOCIATION = 0x31
    QUEUE_NOT_EMPTY = 0x32
    BIND_LIMIT = 0x33
    NO_SUCH_SECRET = 0x34
    SECRET_NOT_UNIQUE = 0x35
    ASSOCIATION_FAILED = 0x36
    # Ours: the architecture knows no policy, no plan and no lock that opens, and uses no number near these.
    PLAN_OUTDATED = 0x3D
    NOT_OPEN_YET = 0x3E
    NOT_PERMITTED = 0x3F


TEXTS: Final[Mapping[ApCode, str]] = {
    ApCode.NOT_AVAILABLE: "not available to this guest",
    ApCode.DECONFIGURED: "offline",
    ApCode.BOUND_TO_ANOTHER: "bound to another guest",
    ApCode.CHANGE_IN_PROGRESS: "a change is in progress",
    ApCode.NOT_BOUND: "not bound",
    ApCode.BIND_ERROR: "bind error",
    ApCode.NOT_OPEN_TO_ASSOCIATION: "not open to association",
    ApCode.QUEUE_NOT_EMPTY: "queue not empty",
    ApCode.BIND_LIMIT: "bind limit reached",
    ApCode.NO_SUCH_SECRET: "no such association secret",
    ApCode.SECRET_NOT_UNIQUE: "secret not unique",
    ApCode.ASSOCIATION_FAILED: "association failed",
    ApCode.PLAN_OUTDATED: "the plan was made for another state",
    ApCode.NOT_OPEN_YET: "this guest opens nothing before its secret store is locked",
    ApCode.NOT_PERMITTED: "no rule of the registered policy allows it",
}
