"""Deciding undecided keys, in the module: the powers go, and what is there afterwards is read back.

One key is decided at a time in a partition, whichever gate does it: of two uses that race, the second finds what the
first has left. The session is the guard's own, since an application's may be read-only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from keyvisor_firmware.broker.errors import Failed, Refused
from keyvisor_firmware.broker.guard.facts import CKO_PRIVATE_KEY, Facts, read_facts
from keyvisor_firmware.broker.guard.roles import Role, Side, lost_powers, role_of
from keyvisor_firmware.broker.key_store import KeyStore
from keyvisor_hsm.cryptoki import CKA, CKR
from keyvisor_hsm.cryptoki.flags import CKF_RW_SESSION, CKF_SERIAL_SESSION
from keyvisor_hsm.cryptoki.native import ULONG, Attribute, Template, Ulongs

_AT_A_TIME: Final = 64


@contextmanager
def own_session(keys: KeyStore) -> Iterator[int]:
    """A session of the guard's own, for changes. Raises Failed."""
    handle = Ulongs(1)
    rv = keys.call["C_OpenSession"](keys.slot, CKF_RW_SESSION | CKF_SERIAL_SESSION, 0, 0, handle.address)
    if rv:
        raise Failed(CKR.DEVICE_ERROR, f"the HSM opens no session ({rv:#x})")
    try:
        yield handle[0]
    finally:
        keys.call["C_CloseSession"](handle[0])


def settle(keys: KeyStore, real: int, side: Side, apqn: str) -> Facts | None:
    """Let a key be used on one side, for good; what it is then, None where it is gone. Raises Refused."""
    with own_session(keys) as session:
        facts = read_facts(keys.call, session, real)
        if facts is None or not lost_powers(facts, side, apqn):
            return facts
        with keys.settling():
            facts = read_facts(keys.call, session, real)
            if facts is None:
                return None
            lost = lost_powers(facts, side, apqn)
            if not lost:
                return facts
            template = Template([Attribute(power, b"\0") for power in lost])
            rv = keys.call["C_SetAttributeValue"](session, real, template.address, template.count)
            facts = read_facts(keys.call, session, real)
            if facts is not None and (rv or lost_powers(facts, side, apqn)):
                reason = f"the HSM does not let go of the key's other powers ({rv:#x}); make one key for data and one for keys"
                raise Refused(CKR.KEY_FUNCTION_NOT_PERMITTED, reason, apqn)
            return facts


def private_halves(keys: KeyStore, session: int, modulus: bytes) -> list[int]:
    """The private keys in the partition that open what this RSA public key closes. Raises Failed."""
    template = Template([Attribute(CKA.CLASS, ULONG.pack(CKO_PRIVATE_KEY)), Attribute(CKA.MODULUS, modulus)])
    rv = keys.call["C_FindObjectsInit"](session, template.address, template.count)
    found: list[int] = []
    while not rv:
        reals, count = Ulongs(_AT_A_TIME), Ulongs(1)
        rv = keys.call["C_FindObjects"](session, reals.address, _AT_A_TIME, count.address)
        if rv or not count[0]:
            break
        found += reals.values(count[0])
    keys.call["C_FindObjectsFinal"](session)
    if rv:
        raise Failed(CKR.DEVICE_ERROR, f"the HSM does not find the private half of a key ({rv:#x})")
    return found


def settle_private_halves(keys: KeyStore, modulus: bytes, apqn: str) -> None:
    """Let an RSA public key wrap: every private half only unwraps from now on, and one that was
    generated here is there. Raises Refused.
    """
    with own_session(keys) as session:
        halves = private_halves(keys, session, modulus) if modulus else []
    settled = [facts for half in halves if (facts := settle(keys, half, Side.WRAPPING, apqn)) is not None]
    # One that was put in may be nobody's half: anybody who knows the modulus can make it up.
    marked = any(facts.has(CKA.LOCAL) for facts in settled)
    if not marked or any(role_of(facts) is not Role.WRAPPING for facts in settled):
        reason = (
            "nothing in the HSM says that the private half of this public key only unwraps; generate a pair whose private"
            " half has CKA_UNWRAP, and keep it there"
        )
        raise Refused(CKR.KEY_FUNCTION_NOT_PERMITTED, reason, apqn)
