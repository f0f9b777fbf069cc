"""Destroying all objects of a key partition, as C_InitToken does, object by object.

The module's own C_InitToken is never called: its token, and the derived PINs that open it, stay.
"""

from __future__ import annotations

from typing import Final

from keyvisor_firmware.broker.errors import Failed, Refused
from keyvisor_firmware.broker.key_store import KeyStore
from keyvisor_hsm.cryptoki import CKA, CKR
from keyvisor_hsm.cryptoki.flags import CKF_RW_SESSION, CKF_SERIAL_SESSION
from keyvisor_hsm.cryptoki.native import Attribute, Template, Ulongs

_AT_ONCE: Final = 1024  # objects
_TOKEN_OBJECTS: Final = (Attribute(CKA.TOKEN, b"\1"),)
_INDESTRUCTIBLE: Final = (*_TOKEN_OBJECTS, Attribute(CKA.DESTROYABLE, b"\0"))


def destroy_objects(keys: KeyStore) -> None:
    """Destroy all token objects of the partition, which the gate itself is logged in to.

    Raises Refused before anything is gone if an object must not be destroyed, Failed if the module gives up. Nobody
    may have a session open there.
    """
    session = Ulongs(1)
    _require(keys, "C_OpenSession", keys.slot, CKF_RW_SESSION | CKF_SERIAL_SESSION, 0, 0, session.address)
    try:
        if _found(keys, session[0], _INDESTRUCTIBLE):
            raise Refused(
                CKR.FUNCTION_FAILED,
                "the token keeps an object whose CKA_DESTROYABLE is false: start with a new secret",
            )
        while reals := _found(keys, session[0], _TOKEN_OBJECTS):
            for real in reals:
                _require(keys, "C_DestroyObject", session[0], real)
                keys.token_objects.discard(real)
    finally:
        keys.call["C_CloseSession"](session[0])


def _found(keys: KeyStore, session: int, attributes: tuple[Attribute, ...]) -> tuple[int, ...]:
    template, reals, count = Template(attributes), Ulongs(_AT_ONCE), Ulongs(1)
    _require(keys, "C_FindObjectsInit", session, template.address, template.count)
    try:
        _require(keys, "C_FindObjects", session, reals.address, _AT_ONCE, count.address)
    finally:
        keys.call["C_FindObjectsFinal"](session)
    return reals.values(count[0])


def _require(keys: KeyStore, name: str, *arguments: int) -> None:
    if rv := keys.call[name](*arguments):
        raise Failed(CKR.DEVICE_ERROR, f"the HSM's objects cannot be destroyed: {name} answered {rv:#x}")
