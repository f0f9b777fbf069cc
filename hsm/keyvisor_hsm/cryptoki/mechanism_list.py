"""What a token can do: its mechanisms with their sizes and flags, as the module lists them. Knows no policy."""

from __future__ import annotations

from typing import NamedTuple

from keyvisor_hsm.cryptoki.module import Module
from keyvisor_hsm.cryptoki.native import Ulongs
from keyvisor_hsm.cryptoki.return_values import CKR
from keyvisor_hsm.errors import ModuleRefused

MAX_MECHANISMS = 1024  # more than any module has: PKCS#11 3.0 itself names about 400


class MechanismInfo(NamedTuple):
    """CK_MECHANISM_INFO. The unit of the key sizes, bits or bytes, is the mechanism's own."""

    min_key_size: int
    max_key_size: int
    flags: int


def list_mechanisms(module: Module, slot: int) -> dict[int, MechanismInfo]:
    """By CK_MECHANISM_TYPE, those of the token in `slot`; one whose info the module refuses is left out.

    Raises ModuleRefused, also where the module lists more than MAX_MECHANISMS.
    """
    count = Ulongs(1)
    module.require("C_GetMechanismList", slot, 0, count.address)
    if count[0] > MAX_MECHANISMS:
        raise ModuleRefused("C_GetMechanismList", CKR.DEVICE_ERROR)
    types = Ulongs(count[0])
    module.require("C_GetMechanismList", slot, types.address, count.address)
    found = {}
    for type_ in types.values(count[0]):
        info = Ulongs(3)
        if module.call["C_GetMechanismInfo"](slot, type_, info.address) == CKR.OK:
            found[type_] = MechanismInfo(*info.values(3))
    return found
