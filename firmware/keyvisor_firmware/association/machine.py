"""The states of one (guest, HSM), as tables (formats, F.5; patents, 2.6).

    unbound --bind--> bound --associate--> pending --opened--> associated
                                              \\---broken--> failed
    unbind leads from every other state to unbound; there is no un-associate.

Every state has an answer to every command: the next state, or a response code. `pending` lasts while the gate
opens the key partition. `failed` repeats its code until the HSM is unbound. Knows no HSM, no gate and no database.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from keyvisor_firmware.association.responses import ApCode
from keyvisor_firmware.errors import ApError


class State(enum.StrEnum):
    """Where an association stands; the values are those of the doors and of the database."""

    UNBOUND = "unbound"
    BOUND = "bound"
    PENDING = "pending"
    ASSOCIATED = "associated"
    FAILED = "failed"


class Command(enum.StrEnum):
    """What a guest can ask for."""

    BIND = "bind"
    ASSOCIATE = "associate"
    UNBIND = "unbind"


class Outcome(enum.StrEnum):
    """How the opening of a key partition ends."""

    OPENED = "opened"
    BROKEN = "broken"


TRANSITIONS: Final[Mapping[tuple[State, Command], State]] = {
    (State.UNBOUND, Command.BIND): State.BOUND,
    (State.BOUND, Command.ASSOCIATE): State.PENDING,
    (State.BOUND, Command.UNBIND): State.UNBOUND,
    (State.PENDING, Command.UNBIND): State.UNBOUND,
    (State.ASSOCIATED, Command.UNBIND): State.UNBOUND,
    (State.FAILED, Command.UNBIND): State.UNBOUND,
}

REFUSALS: Final[Mapping[tuple[State, Command], tuple[ApCode, str]]] = {
    (State.UNBOUND, Command.ASSOCIATE): (ApCode.NOT_BOUND, "bind it first"),
    (State.UNBOUND, Command.UNBIND): (ApCode.NOT_BOUND, "there is nothing to unbind"),
    (State.BOUND, Command.BIND): (ApCode.BIND_ERROR, "it is bound already"),
    (State.PENDING, Command.BIND): (ApCode.CHANGE_IN_PROGRESS, "its association is pending"),
    (State.PENDING, Command.ASSOCIATE): (ApCode.CHANGE_IN_PROGRESS, "its association is pending"),
    (State.ASSOCIATED, Command.BIND): (ApCode.BIND_ERROR, "it is bound and associated already"),
    (State.ASSOCIATED, Command.ASSOCIATE): (
        ApCode.NOT_OPEN_TO_ASSOCIATION,
        "it is associated already; unbind it first",
    ),
    (State.FAILED, Command.BIND): (ApCode.ASSOCIATION_FAILED, "an association failed; unbind it first"),
    (State.FAILED, Command.ASSOCIATE): (ApCode.ASSOCIATION_FAILED, "an association failed; unbind it first"),
}

OUTCOMES: Final[Mapping[Outcome, State]] = {
    Outcome.OPENED: State.ASSOCIATED,
    Outcome.BROKEN: State.FAILED,
}  # both from `pending`


def after(state: State, command: Command, hsm: str) -> State:
    """The state that `command` leads to. Raises ApError, which names the HSM `hsm`."""
    if (state, command) in TRANSITIONS:
        return TRANSITIONS[state, command]
    code, why = REFUSALS[state, command]
    raise ApError(code, f"cannot {command} HSM {hsm}: {why}")
