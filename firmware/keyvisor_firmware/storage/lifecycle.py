"""The states of the zone and of a guest, as tables (patents, 1.3; formats, D.5).

    zone: uninitialised --init--> initialised

    guest: unfinished --finish--> created --set-parameters--> parameters --verify--> verified --start--> running

Destroy-guest leads from every state to the end; it is all that is left to a guest whose creation did not finish. CPUs
come and go in every other state. Every state has an answer to every call: the next state, or why not. A call that fails
for another reason changes no state. Knows no storage and no guest.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Mapping, Sequence
from typing import Final

from keyvisor_firmware.errors import StorageRefused
from keyvisor_firmware.storage.return_codes import StorageCode

__all__ = [
    "REFUSALS",
    "TRANSITIONS",
    "ZONE_REFUSALS",
    "ZONE_TRANSITIONS",
    "GuestCall",
    "GuestState",
    "ZoneCall",
    "ZoneState",
    "after",
    "zone_after",
]


class ZoneState(enum.StrEnum):
    """Whether the firmware has its own storage."""

    UNINITIALISED = "uninitialised"
    INITIALISED = "initialised"


class ZoneCall(enum.StrEnum):
    """What the zone's state decides about; GUEST is every call about a guest or a CPU."""

    QUERY = "query"
    INIT = "init"
    GUEST = "guest"


class GuestState(enum.StrEnum):
    """How far a guest has come; the values are those of the doors and of the database."""

    UNFINISHED = "unfinished"
    CREATED = "created"
    PARAMETERS = "parameters"
    VERIFIED = "verified"
    RUNNING = "running"


class GuestCall(enum.StrEnum):
    """What can be asked for about a guest. FINISH is the second half of its creation, no call of its own."""

    FINISH = "finish"
    CREATE_CPU = "create-cpu"
    DESTROY_CPU = "destroy-cpu"
    SET_PARAMETERS = "set-parameters"
    UNPACK = "unpack"
    VERIFY = "verify"
    START = "start"
    EXPORT = "export"
    IMPORT = "import"
    DESTROY_GUEST = "destroy-guest"


ZONE_TRANSITIONS: Final[Mapping[tuple[ZoneState, ZoneCall], ZoneState]] = {
    (ZoneState.UNINITIALISED, ZoneCall.QUERY): ZoneState.UNINITIALISED,
    (ZoneState.UNINITIALISED, ZoneCall.INIT): ZoneState.INITIALISED,
    (ZoneState.INITIALISED, ZoneCall.QUERY): ZoneState.INITIALISED,
    (ZoneState.INITIALISED, ZoneCall.GUEST): ZoneState.INITIALISED,
}

ZONE_REFUSALS: Final[Mapping[tuple[ZoneState, ZoneCall], StorageCode]] = {
    (ZoneState.UNINITIALISED, ZoneCall.GUEST): StorageCode.NOT_INITIALISED,
    (ZoneState.INITIALISED, ZoneCall.INIT): StorageCode.INIT_DONE,
}

# None: there is no guest any more.
TRANSITIONS: Final[Mapping[tuple[GuestState, GuestCall], GuestState | None]] = {
    (GuestState.UNFINISHED, GuestCall.FINISH): GuestState.CREATED,
    (GuestState.UNFINISHED, GuestCall.DESTROY_CPU): GuestState.UNFINISHED,
    (GuestState.UNFINISHED, GuestCall.DESTROY_GUEST): None,
    (GuestState.CREATED, GuestCall.CREATE_CPU): GuestState.CREATED,
    (GuestState.CREATED, GuestCall.DESTROY_CPU): GuestState.CREATED,
    (GuestState.CREATED, GuestCall.SET_PARAMETERS): GuestState.PARAMETERS,
    (GuestState.CREATED, GuestCall.DESTROY_GUEST): None,
    (GuestState.PARAMETERS, GuestCall.CREATE_CPU): GuestState.PARAMETERS,
    (GuestState.PARAMETERS, GuestCall.DESTROY_CPU): GuestState.PARAMETERS,
    (GuestState.PARAMETERS, GuestCall.UNPACK): GuestState.PARAMETERS,
    (GuestState.PARAMETERS, GuestCall.VERIFY): GuestState.VERIFIED,
    (GuestState.PARAMETERS, GuestCall.DESTROY_GUEST): None,
    (GuestState.VERIFIED, GuestCall.CREATE_CPU): GuestState.VERIFIED,
    (GuestState.VERIFIED, GuestCall.DESTROY_CPU): GuestState.VERIFIED,
    (GuestState.VERIFIED, GuestCall.START): GuestState.RUNNING,
    (GuestState.VERIFIED, GuestCall.EXPORT): GuestState.VERIFIED,
    (GuestState.VERIFIED, GuestCall.IMPORT): GuestState.VERIFIED,
    (GuestState.VERIFIED, GuestCall.DESTROY_GUEST): None,
    (GuestState.RUNNING, GuestCall.CREATE_CPU): GuestState.RUNNING,
    (GuestState.RUNNING, GuestCall.DESTROY_CPU): GuestState.RUNNING,
    (GuestState.RUNNING, GuestCall.EXPORT): GuestState.RUNNING,
    (GuestState.RUNNING, GuestCall.IMPORT): GuestState.RUNNING,
    (GuestState.RUNNING, GuestCall.DESTROY_GUEST): None,
}

_REFUSED: Final[Sequence[tuple[Sequence[GuestState], Sequence[GuestCall], str]]] = (
    (
        [GuestState.UNFINISHED],
        [call for call in GuestCall if (GuestState.UNFINISHED, call) not in TRANSITIONS],
        "its creation did not finish; destroy it",
    ),
    (
        [GuestState.CREATED, GuestState.PARAMETERS, GuestState.VERIFIED, GuestState.RUNNING],
        [GuestCall.FINISH],
        "it is created already",
    ),
    (
        [GuestState.CREATED],
        [GuestCall.UNPACK, GuestCall.VERIFY, GuestCall.START, GuestCall.EXPORT, GuestCall.IMPORT],
        "its image's header is not set",
    ),
    (
        [GuestState.PARAMETERS, GuestState.VERIFIED, GuestState.RUNNING],
        [GuestCall.SET_PARAMETERS],
        "its image's header is set already",
    ),
    (
        [GuestState.PARAMETERS],
        [GuestCall.START, GuestCall.EXPORT, GuestCall.IMPORT],
        "its image is not verified",
    ),
    (
        [GuestState.VERIFIED, GuestState.RUNNING],
        [GuestCall.UNPACK, GuestCall.VERIFY],
        "its image is verified already",
    ),
    ([GuestState.RUNNING], [GuestCall.START], "it runs already"),
)

REFUSALS: Final[Mapping[tuple[GuestState, GuestCall], str]] = {
    pair: why for states, calls, why in _REFUSED for pair in itertools.product(states, calls)
}


def zone_after(state: ZoneState, call: ZoneCall) -> ZoneState:
    """The zone's state that `call` leads to. Raises StorageRefused."""
    if (state, call) in ZONE_TRANSITIONS:
        return ZONE_TRANSITIONS[state, call]
    raise StorageRefused(ZONE_REFUSALS[state, call])


def after(state: GuestState, call: GuestCall, guest: str, cpus: int) -> GuestState | None:
    """The state that `call` leads to for a guest that has `cpus` CPUs; None where it is gone then.

    Raises StorageRefused, which names the guest. A guest starts with at least one CPU and is destroyed with none.
    """
    if (state, call) not in TRANSITIONS:
        raise StorageRefused(
            StorageCode.WRONG_STATE, f"no {call} of guest `{guest}`: {REFUSALS[state, call]}"
        )
    if call is GuestCall.START and not cpus:
        raise StorageRefused(StorageCode.WRONG_STATE, f"no {call} of guest `{guest}`: it has no CPU")
    if call is GuestCall.DESTROY_GUEST and cpus:
        raise StorageRefused(StorageCode.CPUS_LEFT, f"`{guest}` has {cpus}")
    return TRANSITIONS[state, call]
