"""Which call is answered how: by a function of one of the chapters, or forwarded as it is.

The chapters are those of the standard. They hold the calls that the broker answers itself, or around which it does
more than forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from keyvisor_firmware.broker.calls import BY_ID, Call
from keyvisor_firmware.broker.chapters import general, login, newer, objects, pins, random, sessions, slots
from keyvisor_firmware.broker.connection import Connection
from keyvisor_firmware.broker.forward import derive_and_update, forward

# The connection, the call, its arguments -> the body of the reply. Raises Refused.
Chapter = Callable[[Connection, Call, tuple[Any, ...]], bytes]

OWN: Final[dict[str, Chapter]] = {
    "C_Initialize": general.c_initialize,
    "C_Finalize": general.c_finalize,
    "C_GetInfo": general.c_get_info,
    "C_GetSlotList": slots.c_get_slot_list,
    "C_GetSlotInfo": slots.c_get_slot_info,
    "C_GetTokenInfo": slots.c_get_token_info,
    "C_GetMechanismList": slots.c_get_mechanism_list,
    "C_GetMechanismInfo": slots.c_get_mechanism_info,
    "C_InitToken": pins.c_init_token,
    "C_InitPIN": pins.c_init_pin,
    "C_SetPIN": pins.c_set_pin,
    "C_OpenSession": sessions.c_open_session,
    "C_CloseSession": sessions.c_close_session,
    "C_CloseAllSessions": sessions.c_close_all_sessions,
    "C_GetSessionInfo": sessions.c_get_session_info,
    "C_Login": login.c_login,
    "C_LoginUser": newer.c_login_user,
    "C_Logout": login.c_logout,
    "C_DestroyObject": objects.c_destroy_object,
    "C_GetObjectSize": objects.c_get_object_size,
    "C_GetAttributeValue": objects.c_get_attribute_value,
    "C_FindObjectsInit": objects.c_find_objects_init,
    "C_FindObjects": objects.c_find_objects,
    "C_GenerateRandom": random.c_generate_random,
    "C_DeriveKey2": derive_and_update,
    "C_WaitForSlotEvent": slots.c_wait_for_slot_event,
}

# Calls that differ from another by how their arguments travel alone.
SAME_AS: Final = {"C_InitToken2": "C_InitToken"}

ANSWERS: Final[dict[int, Chapter]] = {
    id_: OWN.get(SAME_AS.get(call.name, call.name), forward) for id_, call in BY_ID.items()
}
