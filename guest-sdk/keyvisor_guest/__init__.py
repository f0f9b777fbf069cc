"""What guests, hosts and owners import. The classes are loaded when they are first asked for.

The formats below `wire` are for both sides, and whoever takes only those pays for nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from keyvisor_guest.errors import (
    ClientUnusable,
    CommandUnusable,
    DoorBroken,
    DoorClosed,
    NameInvalid,
    NotRunning,
    PlanUnmet,
    Refused,
    SdkError,
    StateDirectoryUnusable,
)

if TYPE_CHECKING:
    from keyvisor_guest.guest import Guest
    from keyvisor_guest.host import Host
    from keyvisor_guest.owner import Owner
    from keyvisor_guest.planning import AppliedPlan

__all__ = [
    "AppliedPlan",
    "ClientUnusable",
    "CommandUnusable",
    "DoorBroken",
    "DoorClosed",
    "Guest",
    "Host",
    "NameInvalid",
    "NotRunning",
    "Owner",
    "PlanUnmet",
    "Refused",
    "SdkError",
    "StateDirectoryUnusable",
]

_LATER = {
    "AppliedPlan": "keyvisor_guest.planning",
    "Guest": "keyvisor_guest.guest",
    "Host": "keyvisor_guest.host",
    "Owner": "keyvisor_guest.owner",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module `{__name__}` has no `{name}`")
    return getattr(import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
