"""One well-formed call of every kind, for tests that want all of them."""

from __future__ import annotations

from typing import Any, Final

from keyvisor_firmware.broker.calls import Call, Role
from keyvisor_hsm.cryptoki import CKA, CKM

from .encoder import HANDSHAKE, Mechanism

_MECHANISMS: Final = {
    "C_DigestInit": Mechanism(CKM.SHA256),
    "C_UnwrapKey": Mechanism(CKM.AES_KEY_WRAP),
}
_TEMPLATES: Final[dict[str, Any]] = {"C_UnwrapKey": [(CKA.CLASS, 4)]}
_FIRST: Final[dict[str, tuple[Any, ...]]] = {
    "C_Initialize": (HANDSHAKE, 0, b"\0"),
    "C_Login": (1, None),
    "C_LoginUser": (1, None, None),
    "C_OpenSession": (6,),
    "C_GetMechanismInfo": (int(CKM.SHA256),),
    "C_WaitForSlotEvent": (1,),
}


def arguments(call: Call, session: int, slot: int, handle: int = 1) -> tuple[Any, ...]:
    """Arguments for `call`: that session, that slot, and for every object that handle."""
    if call.name == "C_Initialize":
        return _FIRST["C_Initialize"]
    fixed = iter(_FIRST.get(call.name, ()))
    return tuple(_argument(call, role, session, slot, handle, fixed) for role in call.roles)


def _argument(call: Call, role: Role, session: int, slot: int, handle: int, fixed: Any) -> Any:
    match role:
        case Role.SESSION:
            return session
        case Role.SLOT:
            return slot
        case Role.MECHANISM:
            return _MECHANISMS.get(call.name, Mechanism(CKM.AES_ECB))
        case Role.TEMPLATE | Role.QUERY:
            return _TEMPLATES.get(call.name, [])
        case Role.ROOM | Role.ULONG_ROOM:
            return 256
        case Role.BYTE:
            return 0
        case Role.MESSAGE_PARAMETER:
            return None
        case Role.WANTED:
            return 1
        case Role.LABEL:
            return b"label".ljust(32)
        case Role.NUMBER | Role.DATA:
            return next(fixed, 0 if role is Role.NUMBER else b"sixteen bytes...")
        case _:
            return handle
