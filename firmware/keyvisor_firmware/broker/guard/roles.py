"""The role machine: a key works on data or on other keys, never on both. Pure.

A key that could do both is undecided. Its first use decides, by taking the other side's powers away in the object;
no power ever comes back. So the object's own attributes are the memory, and every gate and every start reads the same.

    undecided ── decrypts, encrypts, signs raw, is wrapped, is copied ──► data
        └──────── wraps, unwraps ───────────────────────────────────────► wrapping
"""

from __future__ import annotations

import enum
from typing import Final

from keyvisor_firmware.broker.errors import Refused
from keyvisor_firmware.broker.guard.facts import Facts
from keyvisor_hsm.cryptoki import CKA, CKR


class Side(enum.Enum):
    """What a use makes of a key."""

    DATA = "works on data"
    WRAPPING = "works on other keys"


class Role(enum.Enum):
    """What a key can still be used for."""

    NEITHER = 0
    DATA = 1
    WRAPPING = 2
    UNDECIDED = 3


POWERS: Final[dict[Side, tuple[CKA, ...]]] = {
    Side.DATA: (CKA.ENCRYPT, CKA.DECRYPT),
    Side.WRAPPING: (CKA.WRAP, CKA.UNWRAP),
}
ALL_POWERS: Final = POWERS[Side.DATA] + POWERS[Side.WRAPPING]
OTHER: Final = {Side.DATA: Side.WRAPPING, Side.WRAPPING: Side.DATA}


class Step(enum.Enum):
    """What becomes of a key at a use."""

    GO_ON = "it stays as it is"
    DECIDE = "the other side's powers are taken away first"
    REFUSE = "it works for the other side"


STEPS: Final[dict[tuple[Role, Side], Step]] = {
    (Role.NEITHER, Side.DATA): Step.GO_ON,  # the module refuses what takes a power
    (Role.NEITHER, Side.WRAPPING): Step.GO_ON,
    (Role.DATA, Side.DATA): Step.GO_ON,
    (Role.DATA, Side.WRAPPING): Step.REFUSE,
    (Role.WRAPPING, Side.DATA): Step.REFUSE,
    (Role.WRAPPING, Side.WRAPPING): Step.GO_ON,
    (Role.UNDECIDED, Side.DATA): Step.DECIDE,
    (Role.UNDECIDED, Side.WRAPPING): Step.DECIDE,
}


def role_of(facts: Facts) -> Role:
    """The role that a key's powers give it."""
    data = any(map(facts.has, POWERS[Side.DATA]))
    wrapping = any(map(facts.has, POWERS[Side.WRAPPING]))
    return Role(data * Role.DATA.value + wrapping * Role.WRAPPING.value)


def lost_powers(facts: Facts, side: Side, apqn: str) -> tuple[CKA, ...]:
    """The powers that a use on `side` takes away before it may go on. Raises Refused where the key is the other side's."""
    step = STEPS[role_of(facts), side]
    if step is Step.GO_ON:
        return ()
    if step is Step.REFUSE:
        raise Refused(CKR.KEY_FUNCTION_NOT_PERMITTED, _OTHER_SIDE[side], apqn)
    if CKA.MODIFIABLE in facts.false:
        reason = (
            "the key could work both on data and on other keys and cannot be changed (CKA_MODIFIABLE false);"
            " make one key for each"
        )
        raise Refused(CKR.KEY_FUNCTION_NOT_PERMITTED, reason, apqn)
    return tuple(power for power in POWERS[OTHER[side]] if facts.has(power))


_OTHER_SIDE: Final = {
    Side.DATA: "the key wraps or unwraps other keys, so it never works on data; use another key for data",
    Side.WRAPPING: "the key works on data, so it never wraps or unwraps; generate a key with CKA_WRAP and CKA_UNWRAP alone",
}
