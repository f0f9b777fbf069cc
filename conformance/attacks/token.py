"""A token as an attacker has it: logged in, every call allowed, nothing but calls of PKCS#11. Any module, by its raw binding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keyvisor_hsm.cryptoki import CKA, CKM, CKR
from keyvisor_hsm.cryptoki.flags import CKF_RW_SESSION, CKF_SERIAL_SESSION, CKU_USER
from keyvisor_hsm.cryptoki.module import Module
from keyvisor_hsm.cryptoki.native import ULONG, Attribute, Mechanism, Memory, Pointer, Query, Template, Ulongs

CKO_PUBLIC_KEY, CKO_PRIVATE_KEY, CKO_SECRET_KEY = 2, 3, 4
CKK_RSA, CKK_GENERIC_SECRET, CKK_AES = 0, 0x10, 0x1F
SIZE: Final = 32  # bytes of an AES key here
_ROOM: Final = 4096
_TOKEN_PRESENT: Final = 1

KW: Final = Mechanism(CKM.AES_KEY_WRAP, None)
CBC: Final = Mechanism(CKM.AES_CBC, bytes(16))
ECB: Final = Mechanism(CKM.AES_ECB, None)
PKCS1: Final = Mechanism(CKM.RSA_PKCS, None)
OAEP: Final = Mechanism(CKM.RSA_PKCS_OAEP, [CKM.SHA_1, 1, 1, Pointer(None), 0])

Asked = Mapping[CKA, bool | int | bytes]
AES: Final[Asked] = {CKA.CLASS: CKO_SECRET_KEY, CKA.KEY_TYPE: CKK_AES}


class RefusedByToken(Exception):
    """The token does not do it; the attack ends there."""

    def __init__(self, call: str, rv: int) -> None:
        name = CKR(rv).name if rv in set(CKR) else hex(rv)
        super().__init__(f"{call} answers CKR_{name}")
        self.rv = rv


@dataclass
class Token:
    """A session, logged in."""

    module: Module
    session: int

    @classmethod
    def open(cls, path: Path, slot: int | None, pin: bytes | None) -> Self:
        """A session on the first token, or on that of `slot`, logged in by `pin` (None: the protected path)."""
        module = Module.load(path)
        module.initialize({})
        if slot is None:
            count, slots = Ulongs(1, 64), Ulongs(64)
            module.require("C_GetSlotList", _TOKEN_PRESENT, slots.address, count.address)
            slot = slots[0]
        handle = Ulongs(1)
        module.require("C_OpenSession", slot, CKF_RW_SESSION | CKF_SERIAL_SESSION, 0, 0, handle.address)
        placed = _placed(pin or b"")
        module.require("C_Login", handle[0], CKU_USER, 0 if pin is None else placed.address, placed.size)
        return cls(module, handle[0])

    def call(self, name: str, *arguments: int) -> None:
        """A call in the session. Raises RefusedByToken."""
        if rv := self.module.call[name](self.session, *arguments):
            raise RefusedByToken(name, rv)

    # --- keys

    def victim(self) -> int:
        """The key that nobody may ever see: sensitive, made in the token, and extractable so that it can be backed up."""
        return self.aes({CKA.SENSITIVE: True, CKA.EXTRACTABLE: True, CKA.ENCRYPT: True, CKA.DECRYPT: True})

    def is_value_of(self, key: int, value: bytes) -> bool:
        """Whether `value` is that key's, by what the token encrypts with it."""
        if len(value) != SIZE:
            return False
        mine = Cipher(algorithms.AES(value), modes.ECB()).encryptor()  # noqa: S305 - one block, to compare
        return self.encrypt(ECB, key, bytes(16)) == mine.update(bytes(16))

    def aes(self, asked: Asked) -> int:
        """Generate an AES key with these powers alone."""
        return self._made(
            "C_GenerateKey", Mechanism(CKM.AES_KEY_GEN, None), {CKA.VALUE_LEN: SIZE, **_powers(asked)}
        )

    def rsa(self, public: Asked, private: Asked) -> tuple[int, int]:
        """Generate an RSA pair."""
        size: Asked = {CKA.MODULUS_BITS: 2048, CKA.PUBLIC_EXPONENT: b"\1\0\1"}
        one, other = _template({**public, **size}), _template(private)
        mechanism, first, second = Mechanism(CKM.RSA_PKCS_KEY_PAIR_GEN, None), Ulongs(1), Ulongs(1)
        templates = (one.address, one.count, other.address, other.count)
        self.call("C_GenerateKeyPair", mechanism.address, *templates, first.address, second.address)
        return first[0], second[0]

    def create(self, asked: Asked) -> int:
        """C_CreateObject."""
        template, made = _template(asked), Ulongs(1)
        self.call("C_CreateObject", template.address, template.count, made.address)
        return made[0]

    def copy(self, key: int, asked: Asked) -> int:
        """C_CopyObject."""
        template, made = _template(asked), Ulongs(1)
        self.call("C_CopyObject", key, template.address, template.count, made.address)
        return made[0]

    def change(self, key: int, asked: Asked) -> None:
        """C_SetAttributeValue."""
        template = _template(asked)
        self.call("C_SetAttributeValue", key, template.address, template.count)

    def read(self, key: int, type_: CKA = CKA.VALUE) -> bytes:
        """An attribute's value."""
        query = Query([(type_, 1024)])
        self.call("C_GetAttributeValue", key, query.address, query.count)
        value: Any = query.answer(0)[1]
        return bytes(value)

    # --- uses

    def wrap(self, mechanism: Mechanism, by: int, key: int) -> bytes:
        """C_WrapKey."""
        return self._out("C_WrapKey", mechanism.address, by, key)

    def unwrap(self, mechanism: Mechanism, by: int, blob: bytes, asked: Asked) -> int:
        """C_UnwrapKey, with these powers alone."""
        data, template, made = _placed(blob), _template({**AES, **_powers(asked)}), Ulongs(1)
        rest = (data.address, data.size, template.address, template.count, made.address)
        self.call("C_UnwrapKey", mechanism.address, by, *rest)
        return made[0]

    def derive(self, mechanism: Mechanism, base: int, asked: Asked) -> int:
        """C_DeriveKey."""
        template, made = _template(asked), Ulongs(1)
        self.call("C_DeriveKey", mechanism.address, base, template.address, template.count, made.address)
        return made[0]

    def encrypt(self, mechanism: Mechanism, key: int, data: bytes) -> bytes:
        """C_EncryptInit and C_Encrypt."""
        self.call("C_EncryptInit", mechanism.address, key)
        placed = _placed(data)
        return self._out("C_Encrypt", placed.address, placed.size)

    def decrypt(self, mechanism: Mechanism, key: int, data: bytes) -> bytes:
        """C_DecryptInit and C_Decrypt."""
        self.call("C_DecryptInit", mechanism.address, key)
        placed = _placed(data)
        return self._out("C_Decrypt", placed.address, placed.size)

    def sign(self, mechanism: Mechanism, key: int, data: bytes) -> bytes:
        """C_SignInit and C_Sign."""
        self.call("C_SignInit", mechanism.address, key)
        placed = _placed(data)
        return self._out("C_Sign", placed.address, placed.size)

    def _made(self, name: str, mechanism: Mechanism, asked: Asked) -> int:
        template, made = _template(asked), Ulongs(1)
        self.call(name, mechanism.address, template.address, template.count, made.address)
        return made[0]

    def _out(self, name: str, *arguments: int) -> bytes:
        room, length = Memory(_ROOM), Ulongs(1, _ROOM)
        self.call(name, *arguments, room.address, length.address)
        return room.read(0, length[0])


_POWERS: Final = (CKA.ENCRYPT, CKA.DECRYPT, CKA.WRAP, CKA.UNWRAP)


def _powers(asked: Asked) -> dict[CKA, bool | int | bytes]:
    return {**dict.fromkeys(_POWERS, False), **asked}


def _template(asked: Asked) -> Template:
    return Template([Attribute(type_, _coded(value)) for type_, value in asked.items()])


def _coded(value: bool | int | bytes) -> bytes:
    if isinstance(value, bool):
        return bytes((value,))
    return ULONG.pack(value) if isinstance(value, int) else value


def _placed(data: bytes) -> Memory:
    memory = Memory(len(data))
    memory.write(0, data)
    return memory
