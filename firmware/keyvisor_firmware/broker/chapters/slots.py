"""The chapter of slots and tokens: which HSMs there are, what they can do, when they come and go."""

from __future__ import annotations

from typing import Any, Final

from keyvisor_firmware.broker.calls import Call
from keyvisor_firmware.broker.chapters.general import MAKER, fitting, padded
from keyvisor_firmware.broker.codec import pack_error, pack_reply
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.control_points import served
from keyvisor_firmware.broker.errors import Failed
from keyvisor_firmware.broker.key_store import KeyStore
from keyvisor_firmware.broker.pins import MAX_PIN, MIN_PIN, token_flags
from keyvisor_firmware.broker.slots import Slot
from keyvisor_hsm.cryptoki import CKR
from keyvisor_hsm.cryptoki.flags import (
    CK_UNAVAILABLE_INFORMATION,
    CKF_DONT_BLOCK,
    CKF_LOGIN_REQUIRED,
    CKF_REMOVABLE_DEVICE,
    CKF_RNG,
    CKF_RW_SESSION,
    CKF_TOKEN_INITIALIZED,
    CKF_TOKEN_PRESENT,
)
from keyvisor_hsm.cryptoki.mechanism_list import MechanismInfo
from keyvisor_hsm.errors import ModuleRefused

_SETTLING: Final = 0.001  # seconds until the state page shows what the gate knows already

_TOKEN_FLAGS: Final = CKF_RNG | CKF_LOGIN_REQUIRED | CKF_TOKEN_INITIALIZED


def c_get_slot_list(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The HSMs attached to the guest, in APQN order; with tokenPresent those that are bound."""
    token_present, room = values
    ids = sorted(id_ for id_, slot in list(connection.slots.items()) if not token_present or slot.present())
    return pack_reply(call, fitting(ids, room))


def c_get_slot_info(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """What is known of an attached HSM, bound or not."""
    slot = connection.slot(values[0])
    about = slot.description
    flags = CKF_REMOVABLE_DEVICE | (CKF_TOKEN_PRESENT if slot.present() else 0)
    description = padded(f"keyvisor HSM {about.apqn} ({about.generation}, {about.mode})", 64)
    return pack_reply(call, description, MAKER, flags, (_hardware(slot), 0), about.firmware)


def c_get_token_info(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The token of a bound HSM: its label is the one that C_InitToken set, else the APQN; its serial number the card's."""
    slot = connection.slot(values[0])
    record = slot.admit(call).keys.pins.read()
    about = slot.description
    unknown = CK_UNAVAILABLE_INFORMATION
    return pack_reply(
        call,
        record.label or padded(about.apqn, 32),
        MAKER,
        padded(f"{about.generation} {about.mode}", 16),
        padded(about.serial, 16),
        _TOKEN_FLAGS | token_flags(record),
        0,  # ulMaxSessionCount: effectively infinite
        len(connection.handles.on_slot(slot)),
        0,  # ulMaxRwSessionCount: effectively infinite
        sum(1 for session in connection.handles.on_slot(slot) if session.flags & CKF_RW_SESSION),
        MAX_PIN,
        MIN_PIN,
        *(unknown, unknown, unknown, unknown),
        (_hardware(slot), 0),
        about.firmware,
        b" " * 16,
    )


def c_get_mechanism_list(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """What the module behind a bound HSM can do and the guest's policy lets it."""
    slot_id, room = values
    grant = connection.slot(slot_id).admit(call)
    found = _mechanisms(grant.keys).items()
    ours = [type_ for type_, info in found if served(grant.control, type_, info.flags) is not None]
    return pack_reply(call, fitting(ours, room))


def c_get_mechanism_info(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """Sizes and flags of one mechanism; the functions that the policy refuses with it are not among them."""
    slot_id, mechanism = values
    grant = connection.slot(slot_id).admit(call)
    info = _mechanisms(grant.keys).get(mechanism)
    flags = None if info is None else served(grant.control, mechanism, info.flags)
    if info is None or flags is None:
        return pack_error(CKR.MECHANISM_INVALID)
    return pack_reply(call, info.min_key_size, info.max_key_size, flags)


def _mechanisms(keys: KeyStore) -> dict[int, MechanismInfo]:
    try:
        return keys.mechanisms()
    except ModuleRefused as error:
        raise Failed(CKR.DEVICE_ERROR, f"the HSM lists no mechanisms: {error}") from None


def c_wait_for_slot_event(connection: Connection, call: Call, values: tuple[Any, ...]) -> bytes:
    """The next HSM that was attached, detached, bound or unbound. Waits for it unless CKF_DONT_BLOCK is set."""
    while (slot_id := connection.events.next()) is None:
        if values[0] & CKF_DONT_BLOCK:
            return pack_error(CKR.NO_EVENT)
        if connection.ended:
            return pack_error(CKR.CRYPTOKI_NOT_INITIALIZED)
        connection.wait(None if connection.events.settled() else _SETTLING)
    return pack_reply(call, slot_id)


def _hardware(slot: Slot) -> int:
    return int(slot.description.generation.removeprefix("CEX") or 0)
