"""What the guard knows of an object: the attributes that it goes by, as the module tells them.

The module's answer is the truth, each time anew: another gate may have changed the object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from keyvisor_firmware.broker.errors import Failed
from keyvisor_hsm.cryptoki import CKA, CKR
from keyvisor_hsm.cryptoki.native import ULONG, Query

CKO_PUBLIC_KEY, CKO_PRIVATE_KEY, CKO_SECRET_KEY = 2, 3, 4
KEYS: Final = frozenset((CKO_PUBLIC_KEY, CKO_PRIVATE_KEY, CKO_SECRET_KEY))
CKK_RSA, CKK_DES, CKK_CDMF = 0x0, 0x13, 0x1E

_NUMBERS: Final = (CKA.CLASS, CKA.KEY_TYPE)
_FLAGS: Final = (
    CKA.ENCRYPT, CKA.DECRYPT, CKA.WRAP, CKA.UNWRAP, CKA.SENSITIVE, CKA.EXTRACTABLE, CKA.LOCAL, CKA.TRUSTED,
    CKA.WRAP_WITH_TRUSTED, CKA.MODIFIABLE,
)  # fmt: skip
_MOST_MODULUS: Final = 2048  # bytes
_ASKED: Final = (
    *((n, ULONG.size) for n in _NUMBERS),
    *((f, 1) for f in _FLAGS),
    (CKA.MODULUS, _MOST_MODULUS),
)
_TOLD: Final = frozenset((CKR.OK, CKR.ATTRIBUTE_SENSITIVE, CKR.ATTRIBUTE_TYPE_INVALID))
_GONE: Final = frozenset((CKR.OBJECT_HANDLE_INVALID, CKR.KEY_HANDLE_INVALID))


@dataclass(frozen=True, slots=True)
class Facts:
    """An object's class and key type, the flags that are true and those that are false, and an RSA modulus."""

    class_: int | None
    key_type: int | None
    true: frozenset[int] = frozenset()
    false: frozenset[int] = frozenset()
    modulus: bytes = b""

    def has(self, flag: CKA) -> bool:
        """Whether the module says that the flag is true."""
        return flag in self.true

    @property
    def is_rsa_private(self) -> bool:
        """Whether it is an RSA private key, whose signatures can be decryptions."""
        return self.class_ == CKO_PRIVATE_KEY and self.key_type == CKK_RSA

    @property
    def sensitive(self) -> bool:
        """Whether its value must not be known. One that does not tell is."""
        return CKA.SENSITIVE not in self.false


def read_facts(call: Mapping[str, Callable[..., int]], session: int, real: int) -> Facts | None:
    """What the module tells of an object; None where there is no such object. Raises Failed where it does not tell."""
    query = Query(_ASKED)
    rv = call["C_GetAttributeValue"](session, real, query.address, query.count)
    if rv in _GONE:
        return None
    if rv not in _TOLD:
        raise Failed(CKR.DEVICE_ERROR, f"the HSM does not tell what the key may do ({rv:#x})")
    values = {one.type: one.value for one in query.answers() if isinstance(one.value, bytes)}
    flags = {flag: values[flag] != b"\0" for flag in _FLAGS if values.get(flag)}
    return Facts(
        _number(values.get(CKA.CLASS)),
        _number(values.get(CKA.KEY_TYPE)),
        frozenset(flag for flag, on in flags.items() if on),
        frozenset(flag for flag, on in flags.items() if not on),
        values.get(CKA.MODULUS, b""),
    )


def _number(value: bytes | None) -> int | None:
    return ULONG.unpack(value)[0] if value is not None and len(value) == ULONG.size else None
